"""The command line is instant, says every command and failure in plain words, and hides no bug."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import get_args

import click
import pytest
from click.testing import CliRunner, Result

from edgebcnn import __version__, errors
from edgebcnn.bundle import Precision
from edgebcnn.cli import COMMANDS, console, main
from edgebcnn.cli.flags.device import PRECISIONS
from edgebcnn.errors import BundleError, EdgebcnnError, StorageError, UnreadablePhotoError

HEAVY = ("ai_edge_litert", "cv2", "numpy", "pydantic", "rich", "tensorflow", "tf_keras")
MAX_TIMES_CLICK = 4  # it is 2, and 20 with TensorFlow

Fail = Callable[[BaseException], Result]


def _error_classes(base: type[EdgebcnnError] = EdgebcnnError) -> Iterator[type[EdgebcnnError]]:
    yield base
    for derived in base.__subclasses__():
        yield from _error_classes(derived)


def _commands() -> Iterator[tuple[str, click.Command]]:
    """Every command and subcommand with its full name."""
    waiting: list[tuple[str, click.Command]] = [("edgebcnn", main)]
    while waiting:
        name, command = waiting.pop()
        yield name, command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for child in command.list_commands(context):
                found = command.get_command(context, child)
                assert found is not None
                waiting.append((f"{name} {child}", found))


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Runs a command that raises what it is given."""

    def run(error: BaseException) -> Result:
        @click.command
        def command() -> None:
            raise error

        module = ModuleType("edgebcnn.cli.failing")
        module.__dict__["command"] = command
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(COMMANDS, "failing", "Fail")
        return CliRunner().invoke(main, ["failing"])

    return run


def test_help_takes_hardly_longer_than_to_import_click() -> None:
    def seconds(*arguments: str) -> float:
        start = time.monotonic()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - start

    # The fastest of a few, in turns: neither other work on the machine nor its speed is ours to measure.
    turns = [(seconds("-m", "edgebcnn", "--help"), seconds("-c", "import click")) for _ in range(5)]
    of_help, of_click = (min(column) for column in zip(*turns, strict=True))
    assert of_help < MAX_TIMES_CLICK * of_click


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=lambda arguments: " ".join(arguments))
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    script = f"""
import sys
from edgebcnn.cli import main
main([*{arguments!r}, "--help"], standalone_mode=False)
sys.exit(", ".join(sorted(set({HEAVY!r}) & set(sys.modules))) or 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, f"edgebcnn {' '.join(arguments)} --help loads {done.stderr}"


def test_help_lists_the_commands_in_the_order_of_a_users_work() -> None:
    help_text = CliRunner().invoke(main, ["--help"]).stdout
    listed = re.findall(r"^  (\w+)  +\w", help_text.partition("Commands:")[2], re.MULTILINE)
    assert listed == list(COMMANDS)


def test_the_list_of_commands_says_what_each_command_says_of_itself() -> None:
    said = {name: command.get_short_help_str(limit=1000) for name, command in _commands() if name.count(" ") == 1}
    assert said == {f"edgebcnn {name}": f"{sentence}." for name, sentence in COMMANDS.items()}


def test_every_command_and_option_has_help() -> None:
    silent = []
    for name, command in _commands():
        if not command.help:
            silent.append(name)
        silent += [
            f"{name} {parameter.opts[0]}"
            for parameter in command.params
            if isinstance(parameter, click.Option) and not parameter.help
        ]
    assert not silent, "give these a help text"


def test_the_version_is_the_packages() -> None:
    assert CliRunner().invoke(main, ["--version"]).stdout == f"edgebcnn, version {__version__}\n"


def test_an_unknown_command_is_a_wrong_command_line() -> None:
    result = CliRunner().invoke(main, ["trian"])
    assert result.exit_code == 2
    assert "No such command 'trian'" in result.stderr


@pytest.mark.parametrize(
    "error", [BundleError("b is not a bundle: export one"), UnreadablePhotoError(Path("a"), "cut")]
)
def test_a_foreseen_failure_is_one_sentence_and_its_exit_code(fail: Fail, error: EdgebcnnError) -> None:
    result = fail(error)
    assert (result.exit_code, result.stdout, result.stderr) == (error.exit_code, "", f"Error: {error}\n")


def test_a_missing_package_of_the_train_extra_names_the_line_that_installs_it(fail: Fail) -> None:
    result = fail(ModuleNotFoundError("no tf_keras", name="tf_keras.layers"))
    assert result.exit_code == 10
    assert "edgebcnn failing needs packages that are not installed: pip install 'edgebcnn[train]'" in result.stderr


@pytest.mark.parametrize("bug", [ModuleNotFoundError("typo", name="numpyy"), ZeroDivisionError()])
def test_a_bug_is_not_hidden(fail: Fail, bug: Exception) -> None:
    assert fail(bug).exception is bug


CRASH = """
import click, ctypes, os, sys
from types import ModuleType
from edgebcnn import cli
module = ModuleType("edgebcnn.cli.crash")
module.command = click.Command("crash", callback=lambda: {crash})
sys.modules[module.__name__] = module
cli.COMMANDS["crash"] = "Crash"
cli.main(["crash"])
"""


@pytest.mark.parametrize(
    ("crash", "said"),
    [("ctypes.string_at(0)", "Fatal Python error: Segmentation fault"), ("os.abort()", "Fatal Python error: Aborted")],
)
def test_a_crash_of_native_code_is_not_hidden(crash: str, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", CRASH.format(crash=crash)], capture_output=True, text=True)
    assert done.returncode < 0
    assert done.stderr.startswith(said)


def test_after_a_command_crashes_are_told_by_whom_they_were_before() -> None:
    script = """
import faulthandler
from edgebcnn.native import muted_native_stderr
for _ in range(2):
    before = faulthandler.is_enabled()
    with muted_native_stderr(), muted_native_stderr():
        assert faulthandler.is_enabled()
    assert faulthandler.is_enabled() == before
    faulthandler.enable()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_ctrl_c_ends_with_130_and_no_traceback(fail: Fail) -> None:
    result = fail(KeyboardInterrupt())
    assert (result.exit_code, result.output) == (130, "")


def test_sigterm_while_a_command_is_loaded_leaves_no_traceback(tmp_path: Path) -> None:
    loading = tmp_path / "loading"
    (tmp_path / "tensorflow.py").write_text(
        f"import pathlib, time; pathlib.Path({str(loading)!r}).touch(); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "edgebcnn", "train"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not loading.exists():
        time.sleep(0.02)
    process.terminate()
    said = "".join(process.communicate(timeout=30))
    assert (process.returncode, said.strip()) == (130, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", ["--help", "train --help", "--version"])
def test_help_that_cannot_be_printed_is_one_sentence(arguments: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgebcnn", *arguments.split()], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == StorageError.exit_code
    assert re.fullmatch("Error: the results cannot be printed: no space left .*\n", done.stderr)


def test_a_reader_that_went_away_is_no_failure_to_talk_about() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as closed_pipe:
        done = subprocess.run(
            [sys.executable, "-m", "edgebcnn", "--help"], stdout=closed_pipe, stderr=subprocess.PIPE, text=True
        )
    assert done.stderr == ""


def test_the_table_of_exit_codes_is_that_of_the_errors() -> None:
    table = (Path(__file__).parents[1] / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (`.*`) \|", table, re.MULTILINE)
    documented = {name: int(code) for code, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert documented == {error.__name__: error.exit_code for error in _error_classes()}
    drawn = re.findall(r"(\w+Error|Interrupted) +(\d+)?", (errors.__doc__ or "").partition("Exit code 2")[0])
    assert {name for name, _ in drawn} == set(documented)
    assert all(documented[name] == int(code) for name, code in drawn if code)


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    name = "7 Up [bold] 330 ml :smile: /photos/[1]/" + "x" * 100
    console.stdout.print(name)
    reporter = console.TerminalReporter()
    with reporter.progress("reading [photos]", 2) as advance:
        advance(1)
        reporter.say(name)
        advance(1)
    printed = capsys.readouterr()
    assert printed.out == name + "\n"
    assert name in printed.err
    assert "reading [photos]" in printed.err
    assert "2/2" in printed.err


def test_the_precisions_of_the_commands_are_those_of_a_bundle() -> None:
    assert tuple(PRECISIONS.choices) == get_args(Precision)
