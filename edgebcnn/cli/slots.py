"""`edgebcnn slots`: are the slots of a shelf drawn where the products are?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgebcnn.shelf.check import SlotCheck


@click.group()
def command() -> None:
    """Draw the slots of a shelf on its picture, and check them."""


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--photo", type=click.Path(path_type=Path), required=True, help="A still of the camera.")
@click.option("--output", type=click.Path(path_type=Path), metavar="PNG", help="Draw the slots on the photo.")
@click.option("--bundle", "bundle_path", type=click.Path(path_type=Path), help="Say what its model sees in each slot.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def check(*, file: Path, photo: Path, output: Path | None, bundle_path: Path | None, as_json: bool) -> None:
    """Check a slots file against a still, and draw its slots on it.

    With --bundle, products must be among its labels, and each slot is classified once, in this picture alone.
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
        many = Classifier.from_bundle(bundle).classify_many
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
