"""The walls of the house, read off the sources: who imports whom, and what a kernel may do."""

import ast
import importlib
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import fastbp

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fastbp"
ENGINE = PACKAGE / "engine"
PYTHON = sorted(PACKAGE.rglob("*.py"))
CYTHON = sorted([*ENGINE.glob("*.pyx"), *ENGINE.glob("*.pxd")])
IN_ENGINE = [*CYTHON, *ENGINE.glob("*.py"), *ENGINE.glob("*.pyi")]
KERNELS = sorted(ENGINE.glob("*.pxd"))
# Built on top of Network; whatever comes here uses public names alone.
ON_TOP = [
    PACKAGE / "__main__.py", PACKAGE / "files.py", PACKAGE / "river.py",
    *sorted([*(PACKAGE / "interop").glob("*.py"), *(PACKAGE / "exporting").glob("*.py")]),
]
# Helpers that know nothing of Network.
SHARED = ["fastbp._json", "fastbp._writing"]
PUBLIC_MODULES = [
    "fastbp.activations", "fastbp.callbacks", "fastbp.datasets", "fastbp.files", "fastbp.losses",
    "fastbp.metrics", "fastbp.optimizers", "fastbp.schedules",
]


def relative(path):
    return path.relative_to(ROOT).as_posix()


def absolute(path, dots, module):
    """The dotted name of `from <dots><module> import ...` as written in the file at `path`."""
    if not dots:
        return module
    package = path.relative_to(ROOT).parent.parts
    parts = [*package[: len(package) - dots + 1], *filter(None, [module])]
    return ".".join(parts)


def python_imports(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = absolute(path, node.level, node.module)
            yield from (f"{module}.{alias.name}" for alias in node.names)


CYTHON_FROM = re.compile(r"^[ \t]*from[ \t]+(\.*)([\w.]*)[ \t]+c?import[ \t]+(\([^)]*\)|.*)", re.M)
CYTHON_IMPORT = re.compile(r"^[ \t]*c?import[ \t]+(.*)", re.M)


def cython_imports(path):
    source = without_comments_and_strings(path)
    for dots, module, names in CYTHON_FROM.findall(source):
        module = absolute(path, len(dots), module)
        listed = filter(str.strip, names.strip("()").split(","))
        yield from (f"{module}.{name.split()[0]}" for name in listed)
    for names in CYTHON_IMPORT.findall(source):
        yield from (name.split()[0] for name in names.split(","))


def without_comments_and_strings(path):
    source = re.sub(r'""".*?"""', '""', path.read_text("utf-8"), flags=re.S)
    return re.sub(r"#.*", "", source)


def imports(path):
    return set((cython_imports if path in CYTHON else python_imports)(path))


def importers(*packages, among):
    """The files that import one of the packages, or anything in it."""
    found = set()
    for path in among:
        for name in imports(path):
            if any(f"{name}.".startswith(f"{package}.") for package in packages):
                found.add(relative(path))
    return found


def test_the_sources_were_found():
    # Without this, everything below would hold of nothing.
    assert relative(PACKAGE / "network.py") in map(relative, PYTHON)
    assert relative(ENGINE / "engine.pyx") in map(relative, CYTHON)
    assert len(KERNELS) > 3
    assert "numpy" in imports(ENGINE / "engine.pyx")
    assert "fastbp.engine.engine" in imports(PACKAGE / "_dispatch.py")


@pytest.mark.parametrize("path", IN_ENGINE, ids=relative)
def test_engine_imports_nothing_of_the_python_above(path):
    of_fastbp = [name for name in imports(path) if name.split(".")[0] == "fastbp"]
    assert [name for name in of_fastbp if not name.startswith("fastbp.engine.")] == []


def test_only_dispatch_imports_the_engine():
    above = [path for path in PYTHON if ENGINE not in path.parents]
    assert importers("fastbp.engine", among=above) == {"fastbp/_dispatch.py"}


def test_one_file_cimports_scipy():
    assert len(importers("scipy", among=CYTHON)) == 1
    # where they are used
    assert importers("scipy", among=PYTHON) == {
        "fastbp/losses.py", "fastbp/minimize.py", "fastbp/native.py",
    }


def test_one_file_imports_river():
    assert importers("river", "pandas", among=PYTHON) == {"fastbp/river.py"}


def test_only_callbacks_draw_progress_bars():
    assert importers("tqdm", among=[*PYTHON, *CYTHON]) <= {"fastbp/callbacks.py"}


def test_one_file_imports_safetensors_and_none_pickles():
    assert importers("safetensors", among=PYTHON) == {"fastbp/files.py"}  # where it is used
    assert importers("pickle", "marshal", "shelve", "joblib", among=PYTHON) == set()


@pytest.mark.parametrize("module", SHARED)
def test_shared_helpers_know_nothing_of_the_network(module):
    path = ROOT / f"{module.replace('.', '/')}.py"
    assert importers("fastbp.network", "fastbp._records", among=[path]) == set()


def test_import_loads_nothing_slow():
    # SciPy's BLAS takes longer to import than NumPy: it waits for the first product.
    code = "import sys, fastbp; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "fastbp" in loaded
    assert {
        "scipy", "tqdm", "safetensors", "sklearn", "pytest", "onnx", "torch", "keras", "river",
    }.isdisjoint(loaded)


def test_a_first_fit_imports_no_masked_arrays():
    # np.ma imports on first use, for 10 ms: an array that is none does without.
    code = """if True:
        import sys, fastbp
        net = fastbp.Network(2, [fastbp.Dense(1)])
        net.fit([[1, 2], [3, 4]], [1, 2])
        print(net.n_steps, "numpy.ma" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


def test_init_holds_public_names_alone():
    allowed = (ast.Import, ast.ImportFrom)
    docstring, *statements = ast.parse((PACKAGE / "__init__.py").read_text("utf-8")).body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(docstring.value, ast.Constant)
    for statement in statements:
        if isinstance(statement, ast.Assign):
            assert [target.id for target in statement.targets] in (["__all__"], ["__version__"])
        else:
            assert isinstance(statement, allowed), ast.unparse(statement)


@pytest.mark.parametrize("path", ON_TOP, ids=relative)
def test_what_is_on_top_uses_public_names(path):
    tree = ast.parse(path.read_text("utf-8"))
    public = {"fastbp", *PUBLIC_MODULES, *(f"fastbp.{name}" for name in fastbp.__all__)}
    for module in (*PUBLIC_MODULES, *SHARED):
        public |= {f"{module}.{name}" for name in importlib.import_module(module).__all__}
    used = {name for name in imports(path) if name.split(".")[0] == "fastbp"}
    own = f"fastbp.{path.parent.name}"
    assert {name for name in used if not name.startswith(own)} <= public
    private = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr)
        and ast.unparse(node.value) != "self"
    ]
    assert private == []


@pytest.mark.parametrize("path", KERNELS, ids=relative)
def test_kernels_are_free_of_python(path):
    source = without_comments_and_strings(path)
    # Every function with a body is inline, cannot raise, and does not need the GIL.
    functions = re.findall(r"^cdef (?:inline )?[^\n(=]*\([^)]*\)[^\n]*:$", source, re.M)
    for function in functions:
        assert function.startswith("cdef inline "), function
        assert function.endswith(" noexcept nogil:"), function
    python = r"\b(def|class|raise|try|except|finally|print|gil|object)\b"
    assert re.findall(python, source) == []
    assert re.findall(r"\b(malloc|calloc|realloc|free)\b", source) == []


@pytest.mark.parametrize("name", ["activations", "elementary"])
def test_numbers_beside_real_ones_are_cast(name):
    """An integer literal is a double in Cython's C, and would make float32 loops compute in it."""
    text = re.sub(r'""".*?"""', "", (ENGINE / f"{name}.pxd").read_text("utf-8"), flags=re.S)
    found = [
        line
        for line in (line.partition("#")[0] for line in text.splitlines())
        if not line.strip().startswith("for ")
        and re.search(r"(?<![\w>.])\d+ [-+*/] |[-+*/] \d+(?![\w.])", line)
    ]
    assert found == []


def test_build_flags_are_fit_for_a_wheel():
    # -march=native binds a wheel to the machine that built it; -ffast-math drops checks for NaN
    # and may flip flush-to-zero for the whole process; libgomp hangs after a fork.
    tree = ast.parse((ROOT / "setup.py").read_text("utf-8"))
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    flags = [value for value in constants if isinstance(value, str) and value.startswith("-")]
    assert any(flag.startswith("-O") for flag in flags)
    unfit = re.compile("-march=native|-mtune=native|-ffast-math|-Ofast|-fopenmp")
    assert [flag for flag in flags if unfit.match(flag)] == []


def test_nothing_generated_is_in_git():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout: which files are tracked is not known")
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    generated = (".c", ".cpp", ".so", ".pyd", ".dylib", ".o", ".html", ".pyc")
    assert [name for name in tracked if name.endswith(generated)] == ["examples/embed.c"]


def section(docstring, *titles):
    """The text of the first of the titled NumPy-style sections there is, or an empty string."""
    title = "|".join(titles)
    found = re.search(rf"^(?:{title})\n-+\n(.*?)(?=^\w[^\n]*\n-+\n|\Z)", docstring, re.M | re.S)
    return found[1] if found else ""


def check_parameters(owner, function, *titles):
    """Every parameter of a function has an entry in one of the titled sections."""
    entries = section(inspect.getdoc(owner), *titles)
    heads = re.findall(r"^([\w*][\w, *]*?)(?: :|$)", entries, re.M)
    documented = set(re.findall(r"\w+", " ".join(heads)))
    parameters = set(inspect.signature(function).parameters) - {"self", "args", "kwargs"}
    assert parameters <= documented, f"{owner}: undocumented {parameters - documented}"


CLASS_OR_FUNCTION = (type, types.FunctionType)


def public_objects(module):
    """The classes and functions a module names as its public ones."""
    names = importlib.import_module(module).__all__
    things = {name: getattr(importlib.import_module(module), name) for name in names}
    return {name: thing for name, thing in things.items() if isinstance(thing, CLASS_OR_FUNCTION)}


PUBLIC = public_objects("fastbp")
for module in PUBLIC_MODULES:
    PUBLIC |= public_objects(module)
METHODS = {
    f"{name}.{method}": function
    for name, thing in public_objects("fastbp").items()
    for method, function in vars(thing).items()
    if not method.startswith("_") and isinstance(function, types.FunctionType | property)
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    thing = PUBLIC[name]
    docstring = inspect.getdoc(thing)
    assert docstring
    assert docstring.splitlines()[0].rstrip("`")[-1] in ".:)", "the first line is no sentence"
    if not isinstance(thing, type) or not issubclass(thing, Exception):
        check_parameters(thing, thing, "Parameters", "Attributes")
    if inspect.isfunction(thing) and thing.__annotations__["return"] != "None":
        assert section(docstring, "Returns", "Yields")


@pytest.mark.parametrize("name", METHODS)
def test_public_methods_are_documented(name):
    method = METHODS[name]
    docstring = inspect.getdoc(method)
    assert docstring
    if isinstance(method, property):
        return
    check_parameters(method, method, "Parameters")
    if inspect.signature(method).return_annotation not in (None, "None"):
        assert section(docstring, "Returns", "Yields")


def test_public_names_of_modules_exist():
    for path in PYTHON:
        # torch_layers imports PyTorch, which need not be there
        if path.name in ("__main__.py", "torch_layers.py") or ENGINE in path.parents:
            continue
        if path.name == "river.py" and importlib.util.find_spec("river") is None:
            continue
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
        for name in getattr(module, "__all__", []):
            assert hasattr(module, name), f"{module.__name__}.{name}"
