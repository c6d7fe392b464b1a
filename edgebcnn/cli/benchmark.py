"""`edgebcnn benchmark`: how fast is a bundle here, on what?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebcnn.cli.flags.device import DEFAULT_BUNDLE, PRECISIONS, open_from

if TYPE_CHECKING:
    from edgebcnn.bundle import Precision


@click.command(epilog="Exit code 0: measured, and told why any was dropped. 8: nothing here runs the bundle right.")
@click.argument("bundle", type=click.Path(path_type=Path), default=DEFAULT_BUNDLE)
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="PROFILE",
    show_default="every runtime, GPU and delegate library found here",
    help="Runtime and delegate: a name that `edgebcnn devices` lists, or your own .toml file. May be repeated.",
)
@click.option(
    "--precision",
    "precisions",
    type=PRECISIONS,
    multiple=True,
    show_default="all that the bundle has",
    help="Which of the bundle's models. May be repeated.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 64),
    multiple=True,
    show_default="1, 2, and the cores, at most 4",
    help="CPU threads. May be repeated.",
)
@click.option("--rounds", type=click.IntRange(1), default=5, help="Turns of each candidate, in a new process each.")
@click.option(
    "--calls", type=click.IntRange(1), default=40, help="Photos to time in a turn, at most ten seconds of them."
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw accuracy against latency into a PNG.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
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
    """Measure how fast a bundle is here, on each delegate and number of threads.

    All candidates take turns, so that a noisy minute hits all alike. In each turn a candidate replays the golden
    photos, which warms it up and shows that it is right; one that is wrong, partial or crashes is dropped, with the
    reason. Accuracy is that of the held-out photos at export, or of the golden photos where the bundle has no report.
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
    """Before minutes of measuring, not after."""
    from importlib.util import find_spec

    from edgebcnn.errors import MissingExtraError

    if find_spec("matplotlib") is None:
        raise MissingExtraError("edgebcnn benchmark --plot", "plot")
