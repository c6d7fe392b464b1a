"""Which commands are there, and how does a failure become one sentence and an exit code?

Each command lives in `edgebcnn/cli/<name>.py` as `command`, and is imported when it is called: `edgebcnn --help` is
instant, and a device never loads what it does not run.
"""

from __future__ import annotations

import errno
import os
from importlib import import_module
from typing import Any, NoReturn

import click

from edgebcnn import __version__
from edgebcnn.cli.process import prepare_streams, sigterm_like_ctrl_c
from edgebcnn.errors import EdgebcnnError, Interrupted, MissingExtraError, StorageError
from edgebcnn.native import muted_native_stderr

COMMANDS = {
    "demo": "Do the whole job on a shelf that is drawn for it, offline, in minutes",
    "data": "Look for what is wrong with your photos, and split them without leaks",
    "train": "Train the full B-CNN on labelled photos, then its compact replacement",
    "compress": "Replace the outer product of a trained full model by a low-rank form",
    "calibrate": "Show which photos would calibrate an int8 model, and its ranges",
    "export": "Turn a trained run into a bundle for the device",
    "pack": "Make one file of a bundle, to be copied, mailed or downloaded",
    "layers": "Show op by op what a bundle computes in, and which layers lose the accuracy",
    "evaluate": "Judge a model, full, compact or edge, on labelled photos",
    "devices": "List the device profiles, and what this machine can run them with",
    "check": "Check that a bundle is right on this device, and measure it",
    "benchmark": "Measure how fast a bundle is here, on each delegate and number of threads",
    "predict": "Name the products on photos",
    "slots": "Draw the slots of a shelf on its picture, and check them",
    "run": "Name the products that a camera, video or folder of photos shows",
    "audit": "Ask the full model about the frames that a device kept",
    "review": "Let a person label the frames that a device kept",
}
"""Commands and their first sentence, in the order in which a user meets them."""


class CommandLine(click.Group):
    """A group that imports a command when it is called, and says a failure that we foresaw in one sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Prints the help or the version where that was asked for."""
        try:
            return super().parse_args(ctx, args)
        except OSError as error:
            _fail(ctx, _as_sentence(error))

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command that was asked for."""
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
    """What the system refused, where no one closer to it had more to say; a failure without a place is a bug."""
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
@click.version_option(__version__, prog_name="edgebcnn")
def main() -> None:
    """Bilinear CNN product classifiers, from a store's photos to an int8 model in a camera loop.

    Typed one after the other, train, export --int8 and run --camera 0 need no paths: each takes what the one before it
    left.
    """
