"""`edgebcnn benchmark` compares the speed of a bundle on every delegate of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebcnn.cli.flags.device import PRECISIONS, bundle_option, open_from
from edgebcnn.cli.flags.sections import SectionedCommand, section

if TYPE_CHECKING:
    from edgebcnn.bundle import Precision


@click.command(
    cls=SectionedCommand,
    epilog="Exit code 0: measured, with the reason for each candidate that was dropped. 8: nothing here runs the bundle"
    " correctly.",
)
@section(
    "Candidates",
    bundle_option,
    click.option(
        "--device",
        "devices",
        multiple=True,
        metavar="PROFILE",
        show_default="every runtime, GPU and delegate library found here",
        help="Runtime and delegate: a name that `edgebcnn devices` lists, or your own .toml file. May be repeated.",
    ),
    click.option(
        "--precision",
        "precisions",
        type=PRECISIONS,
        multiple=True,
        show_default="all that the bundle has",
        help="Model of the bundle. May be repeated.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1, 64),
        multiple=True,
        show_default="1, 2, and the cores, at most 4",
        help="CPU threads. May be repeated.",
    ),
)
@section(
    "Measurement",
    click.option("--rounds", type=click.IntRange(1), default=5, help="Rounds per candidate, each in a new process."),
    click.option(
        "--calls", type=click.IntRange(1), default=40, help="Photos to time in a round, for at most ten seconds."
    ),
)
@section(
    "Result",
    click.option(
        "--plot",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Plot accuracy against latency as a PNG.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)
def command(
    *,
    bundle: Path,
    devices: tuple[str, ...],
    precisions: tuple[Precision, ...],
    threads: tuple[int, ...],
    rounds: int,
    calls: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure the speed of a bundle on this machine, for each delegate and number of threads.

    All candidates run in turns, so that noise on the machine affects all alike. In each round a candidate replays the
    golden photos, as warm-up and as a check; one that is wrong, partial or crashes is dropped, with the reason.
    Accuracy is that of the held-out photos at export, or of the golden photos if the bundle has no report.
    """
    from edgebcnn.atomic import json_bytes, replacing_file
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.device.benchmark import benchmark, candidates
    from edgebcnn.device.profile import load_profile

    if plot is not None:
        _check_that_matplotlib_is_there()
    opened, profiles = open_from(bundle), [load_profile(name) for name in devices]
    chosen = candidates(opened, profiles=profiles, precisions=precisions, threads=threads)
    report = benchmark(opened, chosen, rounds=rounds, calls=calls, reporter=TerminalReporter())
    if plot is not None:
        from edgebcnn.report.latency_figure import latency_figure

        with replacing_file(plot) as part:
            latency_figure(report.as_json()).savefig(part, dpi=120, format="png")
    click.echo(json_bytes(report.as_json()).decode() if as_json else f"{report}\n", nl=False)


def _check_that_matplotlib_is_there() -> None:
    """Fails before minutes of measuring, not after."""
    from importlib.util import find_spec

    from edgebcnn.errors import MissingExtraError

    if find_spec("matplotlib") is None:
        raise MissingExtraError("edgebcnn benchmark --plot", "plot")
