"""Measures whether the states of slots are right on a shelf whose truth is known, and what the change gate saves.

    python benchmarks/shelf_states.py [BUNDLE] [--seeds 8] [--first-seed 0] [--duration 120] [--others]

BUNDLE is what `edgebcnn demo` makes; without one, the demo is run first, which takes minutes. With `--others` its model
learns one product more, `Other-Packs`, from photos of packs of many brands, none of which comes on the shelf, and the
slots file names that as its unknown product; BUNDLE is one that such a run left, then. Draws days in front of a
shelf (`edgebcnn/demo/watched_shelf.py`), watches each with the gate and without, and prints how much of the settled
time the states were right, which events were false or flapped, and how many slots were classified. Packs that the model
never saw count for themselves, because whether it takes one for a product is the model's doing and not the watch's.
Exit code 1 if the watch with the gate does not keep what is promised: 99 % right, no false event, no flap, and at most
a third of the classifications of the watch without.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Bundle, Label, open_bundle
from edgebcnn.demo.products import other_pack
from edgebcnn.demo.shelf import LABELS_NAME, ShelfSizes, draw_photo, draw_shelf
from edgebcnn.demo.watched_shelf import FOREIGN, OCCLUDED, UNKNOWN, ShelfFrame, WatchedShelf
from edgebcnn.device.classifier import Classifier
from edgebcnn.shelf.slots import SlotMap, load_slots
from edgebcnn.shelf.tracker import ChangeGate
from edgebcnn.shelf.watch import Classify, ShelfWatch, SlotReading

SETTLED_AFTER_S = 2.0  # 0.3 s of stillness, 1 s of votes, and what 10 frames a second round up
OCCLUDED_AFTER_S = 4.0  # 3 s in the way
MIN_RIGHT, MAX_INVOKES = 0.99, 1 / 3
OTHERS = other_pack("ANY").name


@dataclass
class Score:
    """How a watch did.

    Attributes:
        settled: Slots times frames whose truth had held long enough to be told, less those with foreign packs.
        right: How many of them had the right state.
        foreign: Slots times frames with a pack that the model never saw, as long.
        foreign_right: How many of them were told to be unknown.
        events: States that settled.
        false: Events that say what was not there, however short.
        mistaken: Events that make a product of a foreign pack.
        flaps: Events although the truth had not changed since the event before.
        looks: Slots times frames.
        invokes: How many of them were classified.
        cpu_ms: Processor time a frame, less the model's.
    """

    settled: int = 0
    right: int = 0
    foreign: int = 0
    foreign_right: int = 0
    events: int = 0
    false: list[str] = field(default_factory=list)
    mistaken: list[str] = field(default_factory=list)
    flaps: list[str] = field(default_factory=list)
    looks: int = 0
    invokes: int = 0
    cpu_ms: float = 0.0


Row = tuple[int, bool, Score]
"""Seed, whether there was a gate, and how it went."""


@dataclass(frozen=True)
class Total:
    """What several days came to; see `Score`."""

    settled: int
    right: int
    foreign: int
    foreign_right: int
    events: int
    false: int
    mistaken: int
    flaps: int
    looks: int
    invokes: int

    @classmethod
    def of(cls, scores: Iterable[Score]) -> Total:
        """The sum of some days."""
        total = dict.fromkeys((each.name for each in fields(cls)), 0)
        for score in scores:
            for name in total:
                counted = getattr(score, name)
                total[name] += len(counted) if isinstance(counted, list) else counted
        return cls(**total)

    def keeps_what_is_promised(self, free: Total) -> bool:
        """Whether that holds, where `free` is the same without the gate."""
        is_right = self.settled > 0 and self.right >= MIN_RIGHT * self.settled
        is_steady = not self.false and not self.flaps
        return is_right and is_steady and self.invokes <= MAX_INVOKES * free.invokes

    def __str__(self) -> str:
        """`99.67 % of the settled time right (n=59730), 222 events, 0 false, 0 flapped, 1624 of 76800 classified`."""
        foreign = f"foreign packs {_share(self.foreign_right, self.foreign)}, {self.mistaken} mistaken for a product"
        return (
            f"{_share(self.right, self.settled)}, {self.events} events, {self.false} false, {self.flaps} flapped, "
            f"{self.invokes} of {self.looks} slots classified; {foreign}"
        )


def watch_shelf(
    shelf: WatchedShelf, slots: SlotMap, labels: Sequence[Label], classify: Classify, *, gate: ChangeGate,
    fps: float = 10.0,
    on_frame: Callable[[ShelfFrame], None] = lambda frame: None, width_over_height: float = 1.0,
) -> Score:  # fmt: skip
    """Watches a drawn day and compares it with its truth."""
    model_s = 0.0

    def timed(crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        nonlocal model_s
        started_s = time.thread_time()
        probabilities = classify(crops)
        model_s += time.thread_time() - started_s
        return probabilities

    watch = ShelfWatch(slots, labels, timed, width_over_height=width_over_height, gate=gate)
    names = [slot.name for _, slot in slots.slots()]
    truths: list[tuple[str | None, ...]] = []
    last_event: dict[int, int] = {}
    score, spent_s = Score(), 0.0
    for frame in shelf.frames(fps=fps):
        truths.append(frame.truth)
        on_frame(frame)
        started_s = time.thread_time()
        changes = watch.look(frame.image_bgr, at_s=frame.time_s).changes
        spent_s += time.thread_time() - started_s
        for change in changes:
            score.events += 1
            _judge_event(score, change.now, names.index(change.now.slot), truths, last_event, fps)
        _judge_states(score, watch.readings(), truths, fps)
    score.looks, score.invokes = watch.looks, watch.invokes
    score.cpu_ms = 1000 * (spent_s - model_s) / len(truths)
    return score


def prepared(shelf: WatchedShelf, folder: Path, *, unknown_product: str | None = None) -> SlotMap:
    """Writes a shelf's slots file and picture of the empty shelf, and reads them back."""
    assert cv2.imwrite(str(folder / "empty.png"), shelf.empty_picture())
    top = f'unknown_product = "{unknown_product}"\n' if unknown_product else ""
    (folder / "slots.toml").write_text(top + shelf.toml(empty_picture="empty.png"))
    return load_slots(folder / "slots.toml")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--seeds", default=8, help="Days to draw.")
@click.option("--first-seed", default=0, help="Seed of the first.")
@click.option("--duration", default=120.0, help="Seconds of each.")
@click.option("--others", is_flag=True, help="The model knows that there are other packs.")
@click.option("--keep", type=click.Path(path_type=Path), help="Where a bundle that was made is left.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def main(
    bundle: Path | None, seeds: int, first_seed: int, duration: float, others: bool, keep: Path | None, as_json: bool
) -> None:
    """Watches drawn shelves with the model of BUNDLE, or with one that is trained for it."""
    days = range(first_seed, first_seed + seeds)
    with tempfile.TemporaryDirectory() as folder:
        made = bundle or (_bundle_with_others if others else _demo_bundle)(Path(folder))
        if keep:
            shutil.copytree(made, keep)
        rows = list(_watched(open_bundle(made), days, duration, unknown_product=OTHERS if others else None))
    if as_json:
        print(json.dumps([{"seed": seed, "gate": gated, **asdict(score)} for seed, gated, score in rows]))
    gated, free = (Total.of(score for _, enabled, score in rows if enabled is gate) for gate in (True, False))
    print(f"gate on: {gated}\ngate off: {free}", file=sys.stderr)
    sys.exit(not gated.keeps_what_is_promised(free))


def _watched(bundle: Bundle, days: Iterable[int], duration_s: float, unknown_product: str | None) -> Iterator[Row]:
    classifier = Classifier.from_bundle(bundle)
    for seed, gate in itertools.product(days, (ChangeGate(), ChangeGate(enabled=False))):
        shelf = WatchedShelf(seed=seed, duration_s=duration_s)
        with tempfile.TemporaryDirectory() as folder:
            score = watch_shelf(
                shelf,
                prepared(shelf, Path(folder), unknown_product=unknown_product),
                classifier.labels,
                classifier.scores,
                gate=gate,
                width_over_height=bundle.manifest.preprocessing.width_over_height,
            )
        print(_line(seed, gate.enabled, score), file=sys.stderr)
        yield seed, gate.enabled, score


def _demo_bundle(folder: Path) -> Path:
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.demo.story import tell

    tell(folder, seed=0, reporter=TerminalReporter(), stop=threading.Event())
    return folder / "runs" / "latest" / "bundle"


def _bundle_with_others(folder: Path) -> Path:
    """As the demo's, of a model that was trained on one folder more."""
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.demo.story import SIZES, config
    from edgebcnn.quantize.calibration.recipe import load_recipe
    from edgebcnn.quantize.choices import ExportChoices
    from edgebcnn.quantize.export import export
    from edgebcnn.train.steps import train

    draw_shelf(folder / "data", seed=0, sizes=SIZES)
    draw_others(folder / "data", SIZES)
    reporter = TerminalReporter()
    trained = train(config(folder / "data", seed=0), folder / "run", reporter=reporter, stop=threading.Event())
    choices = ExportChoices(("int8",), load_recipe("balanced"), accept_drop=True)
    return export(trained.run, folder / "bundle", choices=choices, reporter=reporter).bundle.path


def draw_others(data: Path, sizes: ShelfSizes) -> None:
    """Adds photos of packs of other brands, each of one of its own, to a drawn shelf."""
    rng = np.random.default_rng(41)
    for split, photos in asdict(sizes).items():
        (data / split / OTHERS).mkdir()
        for number in range(photos):
            brand = "".join(rng.choice(list("ABDEILMNOQRTUVXZ"), 5))
            assert brand not in FOREIGN
            assert cv2.imwrite(str(data / split / OTHERS / f"{number}.jpg"), draw_photo(other_pack(brand), rng))
    with (data / LABELS_NAME).open("a") as labels:
        labels.write(f"{OTHERS},{other_pack('ANY').gtin},Other\n")


def _line(seed: int, gated: bool, score: Score) -> str:
    return (
        f"seed {seed}, gate {'on ' if gated else 'off'}: {score.right} of {score.settled} right; {score.events} "
        f"events, false {score.false}, flaps {score.flaps}; {score.invokes} of {score.looks} classified; "
        f"foreign packs {score.foreign_right} of {score.foreign} right, mistaken {score.mistaken}; "
        f"{score.cpu_ms:.1f} ms of processor a frame"
    )


def _share(right: int, of: int) -> str:
    return f"{100 * right / of:.2f} % of the settled time right (n={of})" if of else "no time settled (n=0)"


def _judge_states(
    score: Score, readings: Sequence[SlotReading], truths: Sequence[tuple[str | None, ...]], fps: float
) -> None:
    for slot, reading in enumerate(readings):
        truth = truths[-1][slot]
        wait_s = OCCLUDED_AFTER_S if truth == OCCLUDED else SETTLED_AFTER_S
        held = {seen[slot] for seen in truths[-1 - round(wait_s * fps) :]}
        if truth is None or held != {truth} or len(truths) <= wait_s * fps:
            continue
        is_right = _said(reading) == truth
        if truth == UNKNOWN:
            score.foreign += 1
            score.foreign_right += is_right
        else:
            score.settled += 1
            score.right += is_right


def _judge_event(
    score: Score, reading: SlotReading, slot: int, truths: Sequence[tuple[str | None, ...]],
    last_event: dict[int, int], fps: float,
) -> None:  # fmt: skip
    now, said = len(truths) - 1, _said(reading)
    lately = {seen[slot] for seen in truths[-1 - round((OCCLUDED_AFTER_S + 1) * fps) :]}
    if None not in lately and said not in lately:
        wrong = score.mistaken if UNKNOWN in lately and reading.product else score.false
        wrong.append(f"{reading.slot} {said} at {now / fps:g} s")
    if slot in last_event:
        since = {seen[slot] for seen in truths[max(0, last_event[slot] - round(3 * fps)) :]}
        if len(since) == 1 and None not in since:
            score.flaps.append(f"{reading.slot} {said} at {now / fps:g} s")
    last_event[slot] = now


def _said(reading: SlotReading) -> str | None:
    return reading.product.name if reading.product else reading.state and reading.state.value


if __name__ == "__main__":
    main()
