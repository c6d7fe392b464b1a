"""`edgebcnn data` inspects photos for problems, and splits them without leaks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebcnn.cli.flags.sections import SectionedCommand, section

if TYPE_CHECKING:
    from rich.table import Table

    from edgebcnn.images.inspection import Inspection
    from edgebcnn.images.splitting import SplitResult

_MAX_DISTANCE = click.option(
    "--max-distance",
    type=click.IntRange(0, 127),
    default=32,
    help="Bits, of 256, in which the fingerprints of near-duplicates may differ.",
)
_FOLDER = click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("data"))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.group()
def command() -> None:
    """Inspect your photos for problems, and split them without leaks."""


@command.command()
@_FOLDER
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with the photos.")
@click.option("--strict", is_flag=True, help="Exit with code 12 if a finding is serious.")
@click.option("--seed", default=0, help="Random seed of train, which makes the splits that DIR lacks.")
@_MAX_DISTANCE
@_JSON
def inspect(*, folder: Path, html: Path | None, strict: bool, seed: int, max_distance: int, as_json: bool) -> None:
    """List the problems of the photos in DIR, the most serious first.

    Finds photos that cannot be read, near-duplicates in two splits or under two labels, rare products, blur, bad light
    and odd sizes. DIR is any folder that train reads.
    """
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.images.inspection import inspect_photos

    if html is not None:
        from edgebcnn.images.report import write_report  # first, because it may lack its package
    reporter = TerminalReporter()
    inspection = inspect_photos(folder, seed=seed, max_distance=max_distance, reporter=reporter)
    if html is not None:
        with reporter.progress("drawing the page", 0):
            write_report(html, inspection)
    _print_inspection(inspection, html, as_json=as_json)
    if strict:
        inspection.refuse_serious()


@command.command(cls=SectionedCommand)
@_FOLDER
@section(
    "Split",
    click.option(
        "--output", type=click.Path(path_type=Path), required=True, help="Folder to write: list files, no photos."
    ),
    click.option("--val", default=0.1, help="Share of the photos for val."),
    click.option("--test", default=0.2, help="Share of the photos for test."),
    click.option("--seed", default=0, help="Random seed: it orders groups of equal size."),
    click.option("--overwrite", is_flag=True, help="Replace an existing split."),
    click.option(
        "--allow-unreadable", is_flag=True, help="Continue even if more than 1 % of the photos are unreadable."
    ),
    _JSON,
)
@section(
    "Groups that stay together",
    click.option(
        "--group-pattern",
        metavar="REGEX",
        help="Find a photo's store, visit or shelf in its path: the group named 'group', or the only one.",
    ),
    click.option(
        "--groups",
        "groups_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="CSV file with the columns path and group.",
    ),
    _MAX_DISTANCE,
)
def split(
    *,
    folder: Path,
    output: Path,
    val: float,
    test: float,
    group_pattern: str | None,
    groups_file: Path | None,
    seed: int,
    overwrite: bool,
    allow_unreadable: bool,
    max_distance: int,
    as_json: bool,
) -> None:
    """Split the photos in DIR into train, val and test, without leaks.

    Photos of one group stay together, and so do near-duplicates; each product is spread as well as that allows. The
    photos stay where they are: list files are written, and train --data takes them.
    """
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.images.splitting import SplitRequest, split_photos

    request = SplitRequest(
        val=val,
        test=test,
        group_pattern=group_pattern,
        groups_file=groups_file,
        max_distance=max_distance,
        seed=seed,
        allow_unreadable=allow_unreadable,
    )
    result = split_photos(folder, output, request=request, overwrite=overwrite, reporter=TerminalReporter())
    _print_split(result, as_json=as_json)


def _print_inspection(inspection: Inspection, html: Path | None, *, as_json: bool) -> None:
    from edgebcnn.atomic import json_bytes
    from edgebcnn.cli.console import stderr, stdout
    from edgebcnn.images.layouts import some

    for note in inspection.notes:
        stderr.print(note)
    if as_json:
        click.echo(json_bytes(inspection.as_json()).decode(), nl=False)
        return
    stdout.print(_table(f"Photos in {inspection.folder}", dict(inspection.counts)))
    for finding in inspection.findings:
        stdout.print(f"\n{finding.sentence}", style="bold red" if finding.serious else "yellow")
        example = finding.cases[0]
        names = " = ".join(map(inspection.name_of, example.photos))
        stdout.print(f"  such as: {names + ', ' if names else ''}{example.remark}\n  to do:   {finding.advice}")
    if not inspection.findings:
        stdout.print("\nnothing is wrong")
    sizes = some((f"{width} × {height} ({count})" for width, height, count in inspection.sizes), limit=3)
    stdout.print(f"\nsizes:     {sizes}")
    for blurred in inspection.blurriest[:1]:
        stdout.print(f"blurriest: {inspection.name_of(blurred.photos[0])}, {blurred.remark}")
    stdout.print(f"pictures:  {html or 'add --html FILE'}")


def _print_split(result: SplitResult, *, as_json: bool) -> None:
    from shlex import quote

    from edgebcnn.atomic import json_bytes
    from edgebcnn.cli.console import stderr, stdout

    for note in result.notes:
        stderr.print(note)
    if as_json:
        click.echo(json_bytes(result.as_json()).decode(), nl=False)
        return
    stdout.print(_table("Split", dict(result.counts), dict(result.groups)))
    stdout.print(f"leaks:  {result.leaks} of {result.pairs} pairs of near-duplicates lie in two splits")
    stdout.print(f"split:  {result.output}\nnext:   edgebcnn train --data {quote(str(result.output))}")


def _table(title: str, counts: dict[str, tuple[int, ...]], groups: dict[str, int] | None = None) -> Table:
    from rich.table import Table

    table = Table(title=title)
    columns = ["split", "photos", "products", "fewest", "most", "most / fewest"] + (["groups"] if groups else [])
    for column in columns:
        table.add_column(column, justify="left" if column == "split" else "right")
    for split_name, of_split in counts.items():
        seen = [count for count in of_split if count] or [0]
        ratio = f"{max(seen) / min(seen):.1f}" if min(seen) else ""
        row = [split_name, sum(seen), len(list(filter(None, seen))), min(seen), max(seen), ratio]
        table.add_row(*map(str, row), *([str(groups[split_name])] if groups else []))
    return table
