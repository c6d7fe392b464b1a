"""Measures the latency of the int8 model as a ratio to its backbone alone.

    python -m benchmarks.int8_latency RUN [--bundle DIR]

The backbone of the run's compact model is converted alone, in int8, and is called in turn with the bundle's int8 model
on one thread, each once a round, so that whatever else the machine does meets both alike. Medians, with the quarter
below and above; the ratio is that of the two calls of a round.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from rich.console import Console

from benchmarks.head_cost import int8
from edgebcnn.atomic import json_bytes
from edgebcnn.bundle import open_bundle
from edgebcnn.cli.console import TerminalReporter
from edgebcnn.device.runtime import Runtime, load_runtime
from edgebcnn.model.keras import keras
from edgebcnn.train.head_latency import on_one_thread, seconds_of_call
from edgebcnn.train.material import backbone_of
from edgebcnn.train.run_folder import open_run


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--bundle", type=click.Path(path_type=Path), help="By default RUN/bundle.")
@click.option("--rounds", default=300, type=click.IntRange(1), show_default=True, help="Calls of each.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def main(run: Path, bundle: Path | None, rounds: int, as_json: bool) -> None:
    """Measures the int8 model of a bundle and the backbone under it."""
    opened = open_bundle(bundle or run / "bundle")
    model = load_runtime(opened.path / opened.manifest.models["int8"].file, threads=1)
    backbone = on_one_thread(int8(backbone_alone(run), model.input.shape))
    model_ms, backbone_ms = measured((model, backbone), rounds)
    ratios = model_ms / backbone_ms
    found = {
        name: [round(float(value), 3) for value in np.percentile(values, [50, 25, 75])]
        for name, values in (("model_ms", model_ms), ("backbone_ms", backbone_ms), ("ratio", ratios))
    }
    if as_json:
        click.echo(json_bytes(found).decode(), nl=False)
        return
    for name, (median, below, above) in found.items():
        Console().print(f"{name:<12} {median:.3f} ({below:.3f}-{above:.3f})")


def backbone_alone(run: Path) -> keras.Model:
    """Picture to feature map, of the run's compact model."""
    bcnn = open_run(run).load("compact")
    image = keras.Input(bcnn.model.input_shape[1:])
    return keras.Model(image, backbone_of(bcnn)(image, training=False))


def measured(runtimes: tuple[Runtime, ...], rounds: int) -> np.ndarray:
    """`(len(runtimes), rounds)` milliseconds of a call."""
    calls = [(runtime, np.ones(runtime.input.shape, runtime.input.dtype)) for runtime in runtimes]
    times_ms = np.empty((len(calls), rounds))
    with TerminalReporter().progress("measuring", rounds) as advance:
        for of_round in range(-1, rounds):  # the first one allocates, and is overwritten
            for which, (runtime, batch) in enumerate(calls):
                times_ms[which, of_round] = 1000 * seconds_of_call(runtime, batch)
            advance(int(of_round >= 0))
    return times_ms


if __name__ == "__main__":
    main()
