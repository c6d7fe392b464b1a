"""Measures what each pooling head costs, compared with the backbone that it sits on.

    python benchmarks/head_cost.py [--plot FILE.png]

Parameters; multiply-adds; and the time of one call on one thread in the runtime of the device, in float32 and in int8,
alone and as a share of the backbone's. Weights are random, since latency does not depend on them. Backbone and heads
are called in turn, each once a round, so that every head finds the caches as a backbone and other heads left them, and
whatever else the machine does meets all alike. Latencies are medians, with the quarter below and above in brackets.

An int8 part takes and gives int8, as inside a whole model. TFLite leaves ops that have no int8 form in float between
two conversions, or refuses the whole; either is said under the table. A tail's normalisation is not folded away here,
which is an op more than in an export.

Multiply-adds, of maps of M and N channels at L locations, rank d, class rank r and k products (elementwise functions
and sums alone are not counted; M = N of one stream, which `quadratic`, `lrbc` and `gap` take once):

    outer          L·M·N + M·N·k
    hadamard       L·d·(M + N) + L·d + d·k
    quadratic      L·d·M, of two streams L·d·(M + N), + L·d + d·k
    projected      L·d·(M + N) + L·d² + d²·k
    maclaurin      as hadamard
    tensor_sketch  L·d·(M + N) + 2·L·F + 2·L·d + 2·F + d·k
    lrbc           L·d·(M + N) + L·d·k·r + L·k·r + k·r·k
    gap            (M + N)·k

TFLite runs a count sketch as a matrix product with zeros in it, and the signed sums of `lrbc` as one with ±1, so both
are counted as such. F = d·log₂ d stands for a real FFT of d numbers. Of a backbone the convolutions are counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from edgebcnn.atomic import json_bytes, replacing_file
from edgebcnn.cli.console import TerminalReporter, stdout
from edgebcnn.device.runtime import Runtime
from edgebcnn.errors import EdgebcnnError, QuantizationError
from edgebcnn.model import heads
from edgebcnn.model.bcnn import Architecture, build
from edgebcnn.model.keras import keras, tf
from edgebcnn.model.spelling import check_shared
from edgebcnn.model.streams import align, build_streams, packed
from edgebcnn.progress import Reporter
from edgebcnn.quantize.inspect.audit import audit
from edgebcnn.quantize.tflite.convert import converted
from edgebcnn.train.head_latency import converter_of, on_one_thread, seconds_of_call

PRECISIONS = ("float32", "int8")
CALIBRATION_INPUTS = 4


@dataclass(frozen=True)
class Part:
    """A backbone or a head.

    Attributes:
        name: As the table has it.
        parameters: Its parameters.
        multiply_adds: Those of one photo.
        runtimes: It in each precision that there is, loaded.
        int8: How much of it is integer, or why there is no int8.
        integer_only: Whether all of it is.
    """

    name: str
    parameters: int
    multiply_adds: int
    runtimes: dict[str, Runtime]
    int8: str
    integer_only: bool


@click.command()
@click.option("--streams", default="mobilenet_v2", help="As in edgebcnn train.")
@click.option("--input-px", default=256, help="Side of the picture.")
@click.option("--classes", default=81, help="Number of products.")
@click.option("--class-rank", default=8, help="Rank of each product's form in lrbc.")
@click.option("--rank", "ranks", multiple=True, default=(256, 512, 1024, 2048), help="Of hadamard; again for more.")
@click.option("--rounds", default=100, type=click.IntRange(1), help="Calls of every part.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Picture to draw.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(plot: Path | None, rounds: int, as_json: bool, **choices: Any) -> None:
    """Measures every head and the backbone under it."""
    reporter = TerminalReporter()
    try:
        parts = built(reporter=reporter, **choices)
        rows = measured(parts, rounds, reporter)
        if plot:
            with replacing_file(plot) as file:
                figure(rows, choices["streams"]).savefig(file, dpi=150, format="png")
    except EdgebcnnError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json_bytes({"config": {**choices, "rounds": rounds}, "parts": rows}).decode(), nl=False)
        return
    stdout.print(table(rows, "{streams}, {input_px} px, {classes} products; one thread".format(**choices)))
    for row in rows:
        if not row["integer_only"]:
            stdout.print(f"{row['name']} in int8: {row['int8']}")


def built(
    *, streams: str, input_px: int, classes: int, class_rank: int, ranks: Sequence[int], reporter: Reporter
) -> list[Part]:
    """The backbone, then every head on it, each in both precisions."""
    chosen: list[tuple[str, int | None]] = [("outer", None), *(("hadamard", rank) for rank in ranks)]
    chosen += [(name, heads.find(name).rank) for name in heads.compact_names() if name != "hadamard"]
    shape = Architecture(streams=streams, pooling="gap", tail="none", classes=classes, class_rank=class_rank)
    with reporter.progress("building and converting", 1 + len(chosen)) as advance:
        backbone, channels = backbone_of(streams, input_px)
        parts = [part("backbone", backbone, (1, *backbone.input_shape[1:]), convolved(backbone))]
        advance(1)
        maps = (1, *backbone.output_shape[1:])
        for pooling, rank in chosen:
            tail = heads.find(pooling).tails[0]
            of_head = shape.model_copy(update={"pooling": pooling, "rank": rank, "tail": tail})
            head = build(of_head).head
            cost = multiply_adds(of_head, math.prod(maps[1:3]), channels)
            parts.append(part(pooling if rank is None else f"{pooling} {rank}", head, maps, cost))
            advance(1)
    return parts


def backbone_of(streams: str, input_px: int) -> tuple[Any, list[int]]:
    """Picture to feature map, and the channels of each stream (of one, where it stands for both)."""
    image = keras.Input((input_px, input_px, 3))
    maps, _ = align(image, build_streams(streams, image, shared=check_shared(streams, None)))
    return keras.Model(image, packed(maps)), [each.shape[-1] for each in maps]


def convolved(network: Any) -> int:
    """Multiply-adds of all convolutions: every number of a kernel is used at every location of the output."""
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    layers = (layer for layer in network.layers if isinstance(layer, kinds))
    return sum(math.prod(layer.output_shape[1:3]) * math.prod(layer.weights[0].shape) for layer in layers)


def multiply_adds(of_head: Architecture, locations: int, channels: Sequence[int]) -> int:
    """Multiply-adds of a head by the formulas above.

    Args:
        of_head: Its shape.
        locations: h·w of the maps.
        channels: M and N, or M alone where one stream stands for both.
    """
    m, n, joined = channels[0], channels[-1], sum(channels)
    k, r, d = of_head.classes, of_head.class_rank, of_head.rank or 0
    fft = round(d * math.log2(d)) if d else 0
    projected = locations * d * (m + n)
    counts = {
        "outer": locations * m * n + m * n * k,
        "hadamard": projected + locations * d + d * k,
        "quadratic": locations * d * joined + locations * d + d * k,
        "projected": projected + locations * d**2 + d**2 * k,
        "maclaurin": projected + locations * d + d * k,
        "tensor_sketch": projected + 2 * locations * fft + 2 * locations * d + 2 * fft + d * k,
        "lrbc": locations * d * joined + locations * d * k * r + locations * k * r + k * r * k,
        "gap": joined * k,
    }
    return counts[of_head.pooling]


def part(name: str, network: Any, shape: tuple[int, ...], cost: int) -> Part:
    """A network of one input of that shape, converted and loaded."""
    loaded = {"float32": on_one_thread(converted(converter_of(network, shape), "float32"))}
    try:
        content = int8(network, shape)
    except QuantizationError as error:
        return Part(name, network.count_params(), cost, loaded, int8=str(error), integer_only=False)
    loaded["int8"] = on_one_thread(content)
    found = audit(content)
    return Part(name, network.count_params(), cost, loaded, found.summary(), found.integer_only)


def int8(network: Any, shape: tuple[int, ...]) -> bytes:
    """A network as it is in int8 inside a whole model.

    Raises:
        QuantizationError: TFLite has no op for a part of it, or cannot calibrate it.
    """
    converter = converter_of(network, shape)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = partial(_inputs, shape)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converted(converter, "int8")


def _inputs(shape: tuple[int, ...]) -> Iterator[list[NDArray[np.float32]]]:
    rng = np.random.default_rng(0)
    for _ in range(CALIBRATION_INPUTS):
        yield [rng.standard_normal(shape, np.float32)]


def measured(parts: Sequence[Part], rounds: int, reporter: Reporter) -> list[dict[str, Any]]:
    """A row a part, the backbone first."""
    calls = [
        (part.name, precision, runtime, np.ones(runtime.input.shape, runtime.input.dtype))
        for part in parts
        for precision, runtime in part.runtimes.items()
    ]
    times_ms: dict[tuple[str, str], list[float]] = {(name, precision): [] for name, precision, *_ in calls}
    with reporter.progress("measuring", rounds) as advance:
        for of_round in range(1 + rounds):
            for name, precision, runtime, batch in calls:
                elapsed_ms = 1000 * seconds_of_call(runtime, batch)
                if of_round:  # the first one allocates
                    times_ms[name, precision].append(elapsed_ms)
            advance(min(1, of_round))
    return [_row(part, parts[0].name, times_ms) for part in parts]


def _row(part: Part, backbone: str, times_ms: dict[tuple[str, str], list[float]]) -> dict[str, Any]:
    latency_ms, share = {}, {}
    for precision in part.runtimes:
        quarters = np.percentile(times_ms[part.name, precision], [50, 25, 75])
        latency_ms[precision] = {name: round(float(ms), 4) for name, ms in zip(_SPREAD, quarters, strict=True)}
        share[precision] = round(float(quarters[0] / np.median(times_ms[backbone, precision])), 5)
    return {
        "name": part.name,
        "parameters": part.parameters,
        "multiply_adds": part.multiply_adds,
        "latency_ms": latency_ms,
        "share_of_backbone": share,
        "int8": part.int8,
        "integer_only": part.integer_only,
    }


_SPREAD = ("median", "quarter_below", "quarter_above")


def table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """A row a part."""
    shown = Table(title=title, pad_edge=False)
    shown.add_column("", no_wrap=True)
    for column in (
        "parameters",
        "million\nmultiply-\nadds",
        *(f"{precision}: ms,\n% of backbone" for precision in PRECISIONS),
    ):
        shown.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        latencies = (_latency(row, precision) for precision in PRECISIONS)
        shown.add_row(row["name"], f"{row['parameters']:,}", f"{row['multiply_adds'] / 1e6:.2f}", *latencies)
    return shown


def _latency(row: dict[str, Any], precision: str) -> str:
    if precision not in row["latency_ms"]:
        return "none"
    found = row["latency_ms"][precision]
    share = 100 * row["share_of_backbone"][precision]
    return f"{found['median']:.3f} {share:6.1f} %\n({found['quarter_below']:.3f}-{found['quarter_above']:.3f})"


def figure(rows: Sequence[dict[str, Any]], backbone: str) -> Any:
    """A matplotlib figure of the latency of each head as a share of the backbone's."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8, 0.45 * len(rows) + 1), layout="constrained")
    axes = drawn.subplots()
    heads = rows[:0:-1]
    for offset, precision in ((0.2, "float32"), (-0.2, "int8")):
        shares = [100 * row["share_of_backbone"].get(precision, math.nan) for row in heads]
        axes.barh([place + offset for place in range(len(heads))], shares, 0.4, label=precision)
    axes.set_yticks(range(len(heads)), [row["name"] for row in heads])
    axes.set(xscale="log", xlabel=f"latency of the head, % of that of {backbone} in the same precision")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return drawn


if __name__ == "__main__":
    main()
