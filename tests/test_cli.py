"""The command line: what `python -m fastbp train` prints, on a terminal and elsewhere."""

import os
import re
import struct
import subprocess
import sys

import pytest

TIMEOUT_SECONDS = 120
LAYER = re.compile(r"^(\d+) +Dense +(\w+) +(\d+) x (\d+) +([\d,]+)$", re.M)
EPOCH = re.compile(r"^epoch +(\d+) +loss (\d+\.\d+) +held-out accuracy (0\.\d+|1\.0+)$", re.M)


def run(folder, *arguments):
    """Run `python -m fastbp` in a folder where only the installed package can be found."""
    return subprocess.run(
        [sys.executable, "-m", "fastbp", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """What `python -m fastbp train` prints into a pipe."""
    done = run(tmp_path_factory.mktemp("elsewhere"), "train")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def number(output, pattern):
    return float(re.search(pattern, output, re.M)[1])


def test_table_of_the_network(output):
    layers = LAYER.findall(output)
    assert [int(index) for index, *_ in layers] == list(range(1, len(layers) + 1))
    assert layers[-1][1] == "softmax"
    total, width = 0, 64  # pixels
    for _, _, n_in, n_out, size in layers:
        assert int(n_in) == width
        width = int(n_out)
        assert int(size.replace(",", "")) == (int(n_in) + 1) * width
        total += (int(n_in) + 1) * width
    assert width == 10  # digits
    assert re.search(rf"^total +{total:,}$", output, re.M)


def test_one_line_for_each_epoch(output):
    lines = [line for line in output.splitlines() if line.startswith("epoch")]
    epochs = EPOCH.findall(output)
    assert len(epochs) == len(lines) <= 30
    assert [int(epoch) for epoch, _, _ in epochs] == list(range(1, len(epochs) + 1))
    losses = [float(loss) for _, loss, _ in epochs]
    assert losses[-1] < losses[0] / 10


def test_final_accuracy(output):
    # A quarter of each class, 43.5 to 45.75 images, rounded: 450 in all.
    assert re.search(r"\b450 held out$", output, re.M)
    accuracy = number(output, r"^held-out accuracy +(\d+\.\d+) ?%$")
    assert 97 <= accuracy <= 100
    *_, last = EPOCH.findall(output)
    # The same figure, both as printed with four digits.
    assert abs(accuracy / 100 - float(last[2])) < 1e-4
    # It counts images, so that it is a whole number of 450ths.
    assert abs(accuracy / 100 * 450 - round(accuracy / 100 * 450)) < 450 * 0.5e-4


def test_times(output):
    assert number(output, r"^time training +(\d+\.\d+) s\b") > 0
    assert number(output, r"^time per epoch +(\d+\.\d+) ms\b") > 0
    assert number(output, r"^time per prediction +(\d+\.\d+) us\b") > 0


def test_plain_lines_where_there_is_no_terminal(output):
    assert output.isascii()
    assert output.endswith("\n")
    assert not {"\r", "\x1b", "\b"} & set(output)
    assert "%|" not in output  # how a bar of tqdm begins


def run_on_terminal(folder, *arguments):
    """The exit status, and all that is written to a pseudo-terminal of 24 lines."""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this platform")
    import fcntl
    import termios

    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-m", "fastbp", *arguments]
    with subprocess.Popen(
        command, cwd=folder, stdin=its_end, stdout=its_end, stderr=its_end
    ) as process:
        os.close(its_end)
        pieces = []
        try:
            while piece := os.read(terminal, 4096):
                pieces.append(piece)
        except OSError:  # how Linux says that the other end is closed
            pass
        finally:
            os.close(terminal)
        status = process.wait(TIMEOUT_SECONDS)
    return status, b"".join(pieces).decode()


def test_progress_bar_on_a_terminal(output, tmp_path):
    status, written = run_on_terminal(tmp_path, "train")
    assert status == 0
    assert re.search(r"\r +\d+%\|.*\| \d+/\d+ ", written)
    # The bar is drawn over: what is left are the lines that are printed elsewhere, with the
    # same digits, as the same seed gives the same bits.
    lines = [line.rsplit("\r")[-1].strip() for line in written.replace("\r\n", "\n").split("\n")]
    assert EPOCH.findall("\n".join(lines)) == EPOCH.findall(output)
    assert LAYER.findall("\n".join(lines)) == LAYER.findall(output)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "command"),
        (["fly"], "fly"),
        (["train", "--speed"], "--speed"),
        (["train", "--epochs", "many"], "--epochs"),
        (["train", "--epochs", "0"], "epochs"),
        (["train", "--batch-size", "-1"], "batch_size"),
        (["train", "--learning-rate", "nan"], "learning_rate"),
        (["train", "--seed", "-1"], "seed"),
    ],
    ids=" ".join,
)
def test_bad_arguments(arguments, named, tmp_path):
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not EPOCH.search(done.stdout)


def test_divergence(tmp_path):
    done = run(tmp_path, "train", "--learning-rate", "1e30")
    assert done.returncode == 1
    assert "learning rate" in done.stderr
    assert "Traceback" not in done.stderr


def test_options_are_obeyed(output, tmp_path):
    done = run(tmp_path, "train", "--epochs", "2", "--seed", "3")
    assert done.returncode == 0
    assert len(EPOCH.findall(done.stdout)) == 2
    assert EPOCH.findall(done.stdout)[0] != EPOCH.findall(output)[0]


def test_help_and_version(tmp_path):
    for arguments, expected in (
        (["--help"], "train"),
        (["train", "--help"], "--epochs"),
        (["--version"], "fastbp "),
    ):
        done = run(tmp_path, *arguments)
        assert done.returncode == 0
        assert expected in done.stdout
        assert done.stderr == ""
