"""The command line: one file per command, and one place that turns a failure into one sentence and an exit code.

Each command lives in `edgebcnn/cli/<name>.py` as `command`, so this folder has as many files as there are commands,
more than any other. A command is imported when it is called: `edgebcnn --help` is instant, and a device never loads
what it does not run. Flags that several commands share, and `--config`, are in `flags/`.
"""

from __future__ import annotations

import errno
import os
from importlib import import_module
from typing import Any, NoReturn

import click

from edgebcnn import __version__
from edgebcnn.cli.flags.sections import closest
from edgebcnn.cli.process import prepare_streams, sigterm_like_ctrl_c
from edgebcnn.errors import EdgebcnnError, Interrupted, MissingExtraError, StorageError
from edgebcnn.native import muted_native_stderr

COMMANDS = {
    "demo": "Run the whole workflow on a generated shelf, offline, in minutes",
    "data": "Inspect your photos for problems, and split them without leaks",
    "train": "Train the full B-CNN on labeled photos, then its compact replacement",
    "compress": "Replace the outer product of a trained full model by a low-rank form",
    "calibrate": "Show which photos would calibrate an int8 model, and its ranges",
    "export": "Turn a trained run into a bundle for the device",
    "pack": "Pack a bundle into one file, to copy, mail or download",
    "layers": "Show the precision of every op of a bundle, and which layers lose accuracy",
    "evaluate": "Evaluate a full, compact or edge model on labeled photos",
    "devices": "List the device profiles, and what this machine offers to run them",
    "check": "Check that a bundle works on this device, and measure it",
    "benchmark": "Measure the speed of a bundle on this machine, for each delegate and number of threads",
    "predict": "Name the products on photos",
    "slots": "Draw the slots of a shelf on a camera image, and check them",
    "run": "Recognize the products in a camera, video or folder of photos",
    "audit": "Compare the edge model with the full model on frames that a device kept",
    "review": "Label the frames that a device kept, with the keyboard",
    "config": "Write a configuration file for train, compress, export or run",
}
"""Commands and their first sentence, in the order in which a user meets them."""


class CommandLine(click.Group):
    """A group that imports a command when it is called, and prints a foreseen failure as one sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names of the commands, in order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command; one that does not exist is refused with the closest name."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            hint = closest(args[0], COMMANDS)
            ctx.fail(f"No such command '{args[0]}': {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the flags of the group; --help and --version print and end here."""
        try:
            return super().parse_args(ctx, args)
        except OSError as error:
            _fail(ctx, _as_sentence(error))

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        prepare_streams()
        try:
            # libjpeg, libpng and TensorFlow write what a user cannot act on; we name each photo that cannot be read.
            with muted_native_stderr(), sigterm_like_ctrl_c():
                return super().invoke(ctx)
        except Interrupted as reached:
            click.echo(str(reached), err=True)
            ctx.exit(reached.exit_code)
        except EdgebcnnError as error:
            _fail(ctx, error)
        except ModuleNotFoundError as error:
            missing = MissingExtraError.behind(error, f"edgebcnn {ctx.invoked_subcommand}")
            if missing is None:
                raise
            _fail(ctx, missing)
        except KeyboardInterrupt:
            ctx.exit(Interrupted.exit_code)
        except OSError as error:
            _fail(ctx, _as_sentence(error))


def _as_sentence(error: OSError) -> StorageError:
    """Words an error of the operating system; one without a path is a bug and is raised again."""
    if error.filename is not None:
        return StorageError(f"{error.filename}: {error.strerror}: check the path, its permissions and its disk")
    if error.errno == errno.ENOSPC:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would try to print the rest again at its end
        return StorageError("the results cannot be printed: no space left where they go, free some and try again")
    raise error


def _fail(ctx: click.Context, error: EdgebcnnError) -> NoReturn:
    click.echo(f"Error: {error}", err=True)
    ctx.exit(error.exit_code)


@click.command(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, "-V", "--version", prog_name="edgebcnn")
def main() -> None:
    """Bilinear CNN product classifiers, from a store's photos to an int8 model in a camera loop.

    Run in this order, train, export --int8 and run --camera 0 need no paths: each takes the result of the one before.
    """
