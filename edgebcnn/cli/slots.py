"""`edgebcnn slots` draws the slots of a shelf on a camera image, and checks them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from edgebcnn.cli.flags.device import DEFAULT_BUNDLE
from edgebcnn.cli.flags.sections import SectionedGroup, section
from edgebcnn.cli.flags.view import typed, view_flags
from edgebcnn.cli.flags.web import page_flags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgebcnn.camera_view import View
    from edgebcnn.shelf.check import SlotCheck
    from edgebcnn.web.drawing import Model


@click.group(cls=SectionedGroup, invoke_without_command=True)
@section(
    "Source",
    click.option("--camera", default="0", metavar="SOURCE", help="Source of the image: as in run, or one photo."),
    view_flags,
)
@section(
    "Slots",
    click.option(
        "--slots", "path", type=click.Path(path_type=Path), default="slots.toml", help="Slots file to create or edit."
    ),
    click.option(
        "--bundle",
        "bundle_path",
        type=click.Path(path_type=Path),
        show_default=f"{DEFAULT_BUNDLE}, where there is one",
        help="Bundle with the products to choose from.",
    ),
)
@section(
    "Page",
    click.option(
        "--web", metavar="[HOST:]PORT", default="0", help="Port of the page, by default local; 0 for any free port."
    ),
    *page_flags,
)
@click.pass_context
def command(
    context: click.Context,
    *,
    camera: str,
    view: View,
    path: Path,
    bundle_path: Path | None,
    web: str,
    web_token: str | None,
    web_origin: str | None,
) -> None:
    """Draw the slots of a shelf on a camera image, and check them.

    Prints the address of a page with an image of the camera. Drag a box or click a polygon for each slot, enter the
    product that belongs there, and save the file for edgebcnn run --slots. Done or Ctrl-C ends the command.
    """
    if context.invoked_subcommand is not None:
        _refuse_flags(context)
        return
    from contextlib import closing

    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.cli.process import stopped_by_signals
    from edgebcnn.shelf.edit import SlotsEditor
    from edgebcnn.sources.open import masked, open_source
    from edgebcnn.sources.stills import Stills
    from edgebcnn.web.listening import listen
    from edgebcnn.web.serving import need_web, serve_until

    need_web("edgebcnn slots")
    from edgebcnn.web.drawing import DrawingPage
    from edgebcnn.web.guard import Guard

    reporter = TerminalReporter()
    listening = listen(web, web_token, origin=web_origin)
    model = _model(bundle_path)

    def editor(width_px: int, height_px: int) -> SlotsEditor:
        return SlotsEditor(path, width_px=width_px, height_px=height_px, labels=model.labels if model else ())

    opened = open_source(camera, reporter=reporter, view=view)
    with listening.socket, closing(opened) as source, stopped_by_signals() as stop:
        page = DrawingPage(Stills(source, stop), source.name, editor=editor, model=model, done=stop.set)
        guard = Guard.of(page.application(), listening)
        serve_until(stop, guard, listening.socket, ready=lambda: reporter.say(str(listening)))
    given = ["--bundle", str(bundle_path)] if bundle_path else []
    _print_command(["--camera", masked(camera), *typed(view), *given, "--slots", str(path)], saved=page.saved)


def _refuse_flags(context: click.Context) -> None:
    for flag in context.command.params:
        if context.get_parameter_source(str(flag.name)) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{flag.opts[0]} stands before {context.invoked_subcommand}: give it after, or leave it out"
            )


def _model(path: Path | None) -> Model | None:
    """Opens the model of the given bundle, or of the default one if it exists."""
    from edgebcnn.bundle import open_bundle
    from edgebcnn.device.classifier import Classifier
    from edgebcnn.web.drawing import Model

    if path is None and not DEFAULT_BUNDLE.exists():
        return None
    bundle = open_bundle(path or DEFAULT_BUNDLE)
    many = Classifier.from_bundle(bundle).scores
    return Model(bundle.labels, many, bundle.manifest.preprocessing.width_over_height)


def _print_command(arguments: list[str], *, saved: int) -> None:
    from shlex import join

    from edgebcnn.cli.console import stderr, stdout

    if saved:
        stdout.print(join(["edgebcnn", "run", *arguments]))
    else:
        stderr.print("nothing was saved")


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--photo", type=click.Path(path_type=Path), required=True, help="Photo taken by the camera.")
@click.option("--output", type=click.Path(path_type=Path), metavar="PNG", help="Draw the slots on the photo.")
@click.option(
    "--bundle", "bundle_path", type=click.Path(path_type=Path), help="Bundle whose model classifies each slot."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check(*, file: Path, photo: Path, output: Path | None, bundle_path: Path | None, as_json: bool) -> None:
    """Check a slots file against a photo, and draw its slots on it.

    With --bundle, products must be among its labels, and each slot is classified once, in this photo only.
    """
    from edgebcnn.preprocessing import read_photo
    from edgebcnn.shelf.check import check_slots, draw_slots, read_slots
    from edgebcnn.shelf.slots import load_slots

    slots, picture_bgr = load_slots(file), read_photo(photo)
    if bundle_path is None:
        checks = check_slots(slots, picture_bgr)
    else:
        from edgebcnn.bundle import open_bundle
        from edgebcnn.device.classifier import Classifier

        bundle = open_bundle(bundle_path)
        aspect = bundle.manifest.preprocessing.width_over_height
        many = Classifier.from_bundle(bundle).scores
        checks = read_slots(slots, picture_bgr, bundle.labels, many, width_over_height=aspect)
    if output is not None:
        from edgebcnn.shelf.check import write_png

        write_png(output, draw_slots(picture_bgr, slots, checks))
    _print(checks, as_json=as_json)


def _print(checks: Sequence[SlotCheck], *, as_json: bool) -> None:
    from rich.table import Table

    from edgebcnn.atomic import json_bytes
    from edgebcnn.cli.console import stdout

    if as_json:
        click.echo(json_bytes([check.as_json() for check in checks]).decode(), nl=False)
        return
    table = Table()
    for column in ("shelf", "slot", "expected", "pixels", "the model says", "score"):
        table.add_column(column, justify="right" if column in ("pixels", "score") else "left", overflow="fold")
    for check in checks:
        score = "" if check.score is None else f"{100 * check.score:.1f} %"
        size = f"{check.width_px} × {check.height_px}"
        table.add_row(check.shelf, check.slot, check.expected, size, check.product or "", score)
    stdout.print(table)
