"""Compares ways to show a slot to the model: known against unknown packs, empty against full, same against swapped.

    python benchmarks/slot_evidence.py BUNDLE

BUNDLE is what `edgebcnn demo` makes. Draws shelves at random moments (`edgebcnn/demo/watched_shelf.py`) and prints, for
each way to cut a slot out, how often the model is right and how its scores tell known packs from foreign ones; and what
share of a slot's cells differs from the picture of the empty shelf, from the slot a moment before, and after a swap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import open_bundle
from edgebcnn.demo.products import PRODUCTS
from edgebcnn.demo.watched_shelf import EMPTY, FOREIGN, HEIGHT_PX, SLOTS, WIDTH_PX, WatchedShelf
from edgebcnn.device.classifier import Classifier
from edgebcnn.shelf.appearance import ANY_LIGHT_GAIN, Grid, changed_share
from edgebcnn.shelf.regions import Region, closer, crop, polygon_region

DAYS, MOMENTS = 8, 5
SECONDS = 300.0

Cut = Callable[[NDArray[np.uint8], Region], NDArray[np.uint8]]


def grown(frame_bgr: NDArray[np.uint8], region: Region, *, by: float) -> NDArray[np.uint8]:
    """The square around a region, `by` times as large, with whatever is in it."""
    height, width = region.mask.shape
    side = round(by * max(height, width))
    left = int(np.clip(region.left + (width - side) // 2, 0, WIDTH_PX - side))
    top = int(np.clip(region.top + (height - side) // 2, 0, HEIGHT_PX - side))
    return frame_bgr[top : top + side, left : left + side]


CUTS: dict[str, Cut] = {
    "its middle, cut to a square": lambda frame, region: region.of(frame),
    "whole, with what is beside it": lambda frame, region: grown(frame, region, by=1.0),
    "the same, a quarter larger": lambda frame, region: grown(frame, region, by=1.25),
    "whole, filled up with its mean": lambda frame, region: crop(frame, region, width_over_height=1.0),
    "its middle, filled up with its mean": lambda frame, region: crop(frame, closer(region), width_over_height=1.0),
}
WHOLE, MIDDLE, BOTH = *list(CUTS)[-2:], "the mean of the last two"


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
def main(bundle: Path) -> None:
    """Measures what a watch of slots decides by, with the model of BUNDLE."""
    classifier = Classifier.from_bundle(open_bundle(bundle))
    answers: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
    truth: list[str] = []
    shares: dict[str, list[float]] = defaultdict(list)
    for seed in range(DAYS):
        shelf, rng = WatchedShelf(seed=seed, duration_s=SECONDS), np.random.default_rng((seed, 1))
        regions = [polygon_region(corners(box), width_px=WIDTH_PX, height_px=HEIGHT_PX) for box in shelf.boxes()]
        for time_s in rng.uniform(0, SECONDS - 20, MOMENTS):
            measure_shares(shelf, regions, float(time_s), rng, shares)
            contents = mixed(shelf, rng)
            truth += contents
            frame = shelf.picture(contents, time_s=float(time_s), rng=rng)
            for name, cut in CUTS.items():
                seen = [np.ascontiguousarray(cut(frame, region)) for region in regions]
                answers[name] += [classifier.classify(one).scores for one in seen]
    answers[BOTH] = [(one + other) / 2 for one, other in zip(answers[WHOLE], answers[MIDDLE], strict=True)]
    names = [label.name for label in classifier.labels]
    for name, of_name in answers.items():
        print(f"{name:36} {judged(np.stack(of_name), truth, names)}")
    for name, of_name in shares.items():
        print(f"{name:48} cells that differ: {_quantiles(of_name)} (n={len(of_name)})")


def judged(probabilities: NDArray[np.float32], truth: list[str], names: list[str]) -> str:
    """How often the model is right on packs that it knows, and how its scores tell them from foreign ones."""
    is_known = np.array([content not in FOREIGN for content in truth])
    said = [names[class_id] for class_id in probabilities.argmax(axis=1)]
    right = np.array([content == name for content, name in zip(truth, said, strict=True)])[is_known]
    scores = probabilities.max(axis=1).astype(np.float64)
    certainty = (probabilities * np.log(probabilities + 1e-9)).sum(axis=1).astype(np.float64)
    known, foreign = scores[is_known], scores[~is_known]
    return (
        f"right {100 * right.mean():5.1f} % (n={len(known)}); 95 % of known packs reach {np.quantile(known, 0.05):.2f} "
        f"and 95 % of foreign ones (n={len(foreign)}) stay below {np.quantile(foreign, 0.95):.2f}; AUROC by score "
        f"{auroc(known, foreign):.3f}, by entropy {auroc(certainty[is_known], certainty[~is_known]):.3f}"
    )


def measure_shares(
    shelf: WatchedShelf, regions: list[Region], time_s: float, rng: np.random.Generator, shares: dict[str, list[float]]
) -> None:
    """Adds how much slots differ when nothing, the light alone, or the pack changed."""
    full = [product.name for product in shelf.expected]
    swapped = [
        rng.choice([other.name for other in PRODUCTS if other.coarse == product.coarse and other != product])
        for product in shelf.expected
    ]
    now = shelf.picture(full, time_s=time_s, rng=rng)
    shaken = cv2.warpAffine(now, np.array([[1, 0, 0.5], [0, 1, 0.5]], np.float32), (WIDTH_PX, HEIGHT_PX))
    pictures = {
        "a moment later": shelf.picture(full, time_s=time_s + 0.1, rng=rng),
        "ten seconds later, other light": shelf.picture(full, time_s=time_s + 10, rng=rng),
        "shaken by half a pixel, right and down": np.asarray(shaken, np.uint8),
        "a look-alike in its place": shelf.picture(swapped, time_s=time_s + 0.1, rng=rng),
    }
    bare = shelf.picture([EMPTY] * SLOTS, time_s=time_s, rng=rng)
    empty = shelf.empty_picture()
    for region in regions:
        grid = Grid(region)
        for name, picture in pictures.items():
            shares[name].append(changed_share(grid.look(now), grid.look(picture)))
        for name, picture in (("empty, against the picture of the empty shelf", bare), ("full, against the same", now)):
            share = changed_share(grid.look(empty), grid.look(picture), max_gain=ANY_LIGHT_GAIN)
            shares[name].append(share)


def mixed(shelf: WatchedShelf, rng: np.random.Generator) -> list[str]:
    """What belongs there or a look-alike, any pack that fits, or a foreign one, in each slot."""
    contents = []
    for slot, product in enumerate(shelf.expected):
        family = [other.name for other in PRODUCTS if other.coarse == product.coarse]
        choice = (family, shelf.fitting(slot), FOREIGN)[rng.integers(3)]
        contents.append(str(rng.choice(choice)))
    return contents


def corners(box: tuple[float, float, float, float]) -> list[tuple[float, float]]:
    """Corners in pixels of a box in shares."""
    left, top, right, bottom = np.array(box) * [WIDTH_PX, HEIGHT_PX, WIDTH_PX, HEIGHT_PX]
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def auroc(known: NDArray[np.float64], foreign: NDArray[np.float64]) -> float:
    """Chance that a known pack scores higher than a foreign one; equals count half."""
    return float((known[:, None] > foreign).mean() + (known[:, None] == foreign).mean() / 2)


def _quantiles(values: list[float]) -> str:
    low, lower, median, upper, high = (100 * np.quantile(values, [0, 0.01, 0.5, 0.99, 1])).tolist()
    return f"{low:.1f} {lower:.1f} {median:.1f} {upper:.1f} {high:.1f} % (lowest, 1 %, median, 99 %, highest)"


if __name__ == "__main__":
    main()
