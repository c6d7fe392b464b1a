"""`edgebcnn layers` shows the precision of each op of a bundle, and which layers lose accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebcnn.cli.flags.device import PRECISIONS, bundle_option, open_from

if TYPE_CHECKING:
    from edgebcnn.bundle import Precision
    from edgebcnn.quantize.inspect.layers import ModelLayers


@click.command()
@bundle_option
@click.option("--precision", type=PRECISIONS, show_default="all that it has", help="Model of the bundle.")
@click.option(
    "--integer-only", is_flag=True, help="Fail if any op computes in float: some accelerators are integer only."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(*, bundle: Path, precision: Precision | None, integer_only: bool, as_json: bool) -> None:
    """Show the precision of every op of a bundle, and which layers lose accuracy.

    For each layer: how far its values differ from the float model (SQNR, cosine), and how far predictions move if this
    layer alone is int8, as export measured it on training photos. The plot is in the bundle, as
    report/layers.PRECISION.png.
    """
    from edgebcnn.quantize.inspect.layers import check_integer_only, read_layers

    found = read_layers(open_from(bundle), precision)
    if integer_only:
        check_integer_only(found)
    _print(found, as_json=as_json)


def _print(found: dict[Precision, ModelLayers], *, as_json: bool) -> None:
    from edgebcnn.atomic import json_bytes
    from edgebcnn.cli.console import stdout
    from edgebcnn.quantize.inspect.layers import layers_table

    if as_json:
        click.echo(json_bytes({name: model.as_json() for name, model in found.items()}).decode(), nl=False)
        return
    for precision, model in found.items():
        stdout.print(f"{precision}: {model.audit.proof()}")
        if model.errors is not None:
            stdout.print(layers_table(model.errors))
            stdout.print(str(model.errors))
