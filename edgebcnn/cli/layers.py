"""`edgebcnn layers`: what each op of a bundle's models computes in, and which layers lose the accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebcnn.cli.flags.device import PRECISIONS

if TYPE_CHECKING:
    from edgebcnn.bundle import Precision
    from edgebcnn.quantize.inspect.layers import ModelLayers


@click.command()
@click.argument(
    "bundle_path", metavar="[BUNDLE]", type=click.Path(path_type=Path), default=Path("runs/latest") / "bundle"
)
@click.option(
    "--precision",
    type=PRECISIONS,
    show_default="all that it has",
    help="Which model.",
)
@click.option(
    "--integer-only", is_flag=True, help="Fail if any op sees a float: some accelerators compute in integers alone."
)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def command(*, bundle_path: Path, precision: Precision | None, integer_only: bool, as_json: bool) -> None:
    """Show op by op what a bundle computes in, and which layers lose the accuracy.

    BUNDLE is what export or pack made, by default the newest run's. For each layer: how far its values are from those
    of the float model (SQNR, cosine), and how far the answers move where this layer alone is int8, as export measured
    it on training photos. The picture of it lies in the bundle, as report/layers.PRECISION.png.
    """
    from edgebcnn.bundle import open_bundle
    from edgebcnn.quantize.inspect.layers import check_integer_only, read_layers

    found = read_layers(open_bundle(bundle_path), precision)
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
