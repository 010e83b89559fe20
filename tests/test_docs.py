"""What the documentation shows is true: its Python runs, and prints what the page says.

Every ```python block of README.md and of the pages in docs/ is run. The blocks of one page share
a namespace, in order, as a reader would type them. A ```text block right after a ```python block
is what that block prints. The examples in docstrings are run by doctest.
"""

import contextlib
import doctest
import importlib
import importlib.util
import io
import itertools
import pkgutil
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import fastbp
from fastbp import _dispatch

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```\n", re.M | re.S)
# What wants an optional package: pages, and modules.
WANTED = {
    "docs/river.md": "river", "fastbp.river": "river", "fastbp.interop.torch_layers": "torch",
}
LINK = re.compile(r"\[[^]\n]*\]\((?P<target>[^)\s]+)\)")


class Block(NamedTuple):
    line: int  # of its first line of text, counted from 1
    language: str
    text: str
    gap: str  # what stands between the block before and this one


def blocks(markdown):
    end = 0
    for found in FENCE.finditer(markdown):
        line = markdown.count("\n", 0, found.start("text")) + 1
        yield Block(line, found["language"], found["text"], markdown[end : found.start()])
        end = found.end()


def examples(markdown):
    """Each ```python block, with what the page says it prints or None."""
    found = list(blocks(markdown))
    for block, after in itertools.zip_longest(found, found[1:]):
        if block.language == "python":
            shown = after is not None and after.language == "text" and not after.gap.strip()
            yield block, after.text if shown else None


def run(markdown, name):
    """Run the blocks of a page. The first that fails is named, by page and line."""
    namespace = {"__name__": "__main__"}
    for block, expected in examples(markdown):
        printed = io.StringIO()
        try:
            # The empty lines make a traceback count lines as the page does.
            code = compile("\n" * (block.line - 1) + block.text, name, "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)
        except Exception as error:
            place = f"{name}, the block at line {block.line}"
            raise AssertionError(f"{place}: {type(error).__name__}: {error}") from error
        if expected is not None:
            assert printed.getvalue() == expected, f"{name}, the block at line {block.line}"


def relative(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_page_runs(page, tmp_path, monkeypatch):
    if (wanted := WANTED.get(relative(page))) is not None:
        pytest.importorskip(wanted, reason=f"the page wants the optional package {wanted}")
    monkeypatch.chdir(tmp_path)  # for blocks that write files
    run(page.read_text("utf-8"), relative(page))


@pytest.mark.parametrize(
    "page",
    ["README.md", "docs/guide.md", "docs/backpropagation.md", "docs/embedding.md", "docs/river.md"],
)
def test_page_has_something_to_run(page):
    # Without this, a fence the pattern above does not know would pass unread.
    markdown = (ROOT / page).read_text("utf-8")
    assert len(list(examples(markdown))) == markdown.count("```python") > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0\n", "page.md, the block at line 4: ZeroDivisionError"),
        ("for\n", "page.md, the block at line 4: SyntaxError"),
        ("print(2)\n", "page.md, the block at line 4"),
    ],
)
def test_a_wrong_block_is_named(text, message):
    with pytest.raises(AssertionError, match=message):
        run(f"# Title\n\n```python\n{text}```\n\n```text\n1\n```\n", "page.md")


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=relative
)
def test_links_to_files_lead_somewhere(page):
    for found in LINK.finditer(page.read_text("utf-8")):
        target = found["target"].partition("#")[0]
        if target and "://" not in target:
            assert (page.parent / target).exists(), found[0]


def modules():
    elsewhere = [
        f"fastbp.engine.{name}"
        for name in _dispatch.VARIANTS
        if name not in _dispatch.available_variants()
    ]
    yield fastbp
    for found in pkgutil.walk_packages(fastbp.__path__, "fastbp."):
        # to import what is compiled for another processor would end this process
        if found.name.endswith("__main__") or found.name in elsewhere:
            continue
        if found.name not in WANTED or importlib.util.find_spec(WANTED[found.name]) is not None:
            yield importlib.import_module(found.name)


DOCTESTS = {
    test.name: test
    for module in modules()
    for test in doctest.DocTestFinder().find(module)
    if test.examples
}


def test_there_are_doctests():
    assert "fastbp.network.Network" in DOCTESTS


@pytest.mark.parametrize("name", DOCTESTS)
def test_docstring_examples(name):
    report = io.StringIO()
    failed, _ = doctest.DocTestRunner().run(DOCTESTS[name], out=report.write)
    assert not failed, report.getvalue()
