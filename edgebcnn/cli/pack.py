"""`edgebcnn pack` makes one file of a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from edgebcnn.cli.flags.device import bundle_option, check_default


@click.command()
@bundle_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    show_default="BUNDLE.zip",
    help="File to write; an existing packed bundle is replaced.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(*, bundle: Path, output: Path | None, as_json: bool) -> None:
    """Pack a bundle into one file, to copy, mail or download.

    The file is a zip archive that every command accepts as a bundle. The same bundle gives the same file, byte for
    byte.
    """
    from shlex import quote

    from edgebcnn.atomic import json_bytes
    from edgebcnn.bundle import pack_bundle

    check_default(bundle)
    named = bundle if bundle.name.strip(".") else bundle.resolve()
    place = output or Path(f"{named}.zip")
    digest = pack_bundle(bundle, place).digest
    size_bytes = place.stat().st_size
    if as_json:
        click.echo(json_bytes({"packed": str(place), "digest": digest, "size_bytes": size_bytes}).decode(), nl=False)
    else:
        click.echo(f"packed: {place}, {size_bytes / 1e6:.2f} MB\ndigest: {digest}")
        click.echo(f"next:   edgebcnn check --bundle {quote(str(place))}")
