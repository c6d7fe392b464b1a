"""Measures whether an audit finds what there is to find in the field, from a twentieth of the frames.

    python benchmarks/field.py BUNDLE --full RUN [--work DIR] [--passes 2] [--share 0.05]

The photos that RUN held out are played as a camera, pass after pass. On all of them the light grows dimmer and warmer
and the lens softer; on one bay of the shelf, a quarter of the photos, the lamp is nearly out and the lens foggy. The
truth is both models' answers on every frame. An audit of a sample of `--share` of the frames is then held against it:
the real one, by `edgebcnn run --sample` and `edgebcnn audit`; and samples drawn again and again, also of longer days
(each frame seen several times), and of days on which nothing happened, where every name is false.

Every frame is asked about once: answers stay in `--work`, and a run that was stopped goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edgebcnn.atomic import json_bytes
from edgebcnn.bundle import Bundle, open_bundle
from edgebcnn.cli.console import TerminalReporter
from edgebcnn.device.classifier import Classifier
from edgebcnn.evaluation.field_audit import answered
from edgebcnn.evaluation.models import OpenedModel, open_model
from edgebcnn.field.findings import Frames, ProductFinding, products_by_loss
from edgebcnn.field.plan import Boosts
from edgebcnn.images.layouts import Photo
from edgebcnn.loop.reading import Candidate
from edgebcnn.preprocessing import Preprocessing, read_photo
from edgebcnn.report import agreement, weighted_share

SIDE_PX = 240  # blur is given in pixels of a photo with this shorter side
BAY_SHARE = 0.25
HURT = 0.1  # agreement lost on all frames, from which a product counts as one that suffered
DAYS = (1, 4, 16)
SEED = 0
TABLE_WIDTH = 170


@dataclass(frozen=True)
class Drift:
    """What became of a frame.

    Attributes:
        light: Brightness, times.
        blur_px: Standard deviation.
        warmth: Share that red gains and blue loses.
    """

    light: float
    blur_px: float
    warmth: float

    def of(self, photo_bgr: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """The frame, a little different each time."""
        light, blur, warmth = np.array([self.light, self.blur_px, self.warmth]) * rng.uniform(0.8, 1.2, 3)
        sigma_px = blur * min(photo_bgr.shape[:2]) / SIDE_PX
        soft = cv2.GaussianBlur(photo_bgr, (0, 0), sigma_px) if sigma_px > 0.1 else photo_bgr
        curves = np.arange(256)[:, None] * light * np.array([1 - warmth, 1, 1 + warmth])
        return np.asarray(cv2.LUT(soft, np.clip(curves + 0.5, 0, 255).astype(np.uint8)[None]), np.uint8)


BAY = Drift(light=0.2, blur_px=2.5, warmth=0.3)
LATEST = Drift(light=0.5, blur_px=0.8, warmth=0.15)
"""The rest of the shelf, on the last pass."""


def on_pass(number: int, passes: int) -> Drift:
    """The rest of the shelf, which drifts from the photos as they are to `LATEST`."""
    progress = (number + 1) / passes
    return Drift(1 - (1 - LATEST.light) * progress, LATEST.blur_px * progress, LATEST.warmth * progress)


@dataclass(frozen=True)
class Models:
    """Whom frames are shown to.

    Attributes:
        edge: What the device runs.
        full: What an audit asks.
        seen: What turns a frame into what a sample keeps of it.
    """

    edge: Classifier
    full: OpenedModel
    seen: Preprocessing


@dataclass(frozen=True)
class Answers:
    """What both models say of frames.

    Attributes:
        edge: `(n, classes)` probabilities.
        full: `(n, classes)` probabilities.
    """

    edge: NDArray[np.float32]
    full: NDArray[np.float32]

    @property
    def all(self) -> Frames:
        """Every frame, as an audit has them."""
        return self.of(np.arange(len(self.edge)))

    def of(self, rows: NDArray[np.int64]) -> Frames:
        """Some of them."""
        edge = self.edge[rows]
        nothing = np.zeros((len(rows), 4))  # drift is left to the audit
        return Frames(edge.argmax(1), edge.max(1).astype(np.float64), self.full[rows], nothing, nothing)


@click.command()
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--full", "run", type=click.Path(path_type=Path), required=True, help="Run with the full model.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder for answers, sample and audit; one that goes.")
@click.option("--passes", default=2, help="How often the photos are played.")
@click.option("--share", default=0.05, help="Share of the frames that is kept.")
@click.option("--draws", default=100, help="Samples drawn of each day.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def main(
    bundle_path: Path,
    run: Path,
    work: Path | None,
    passes: int,
    share: float,
    draws: int,
    as_json: bool,
) -> None:
    """Plays the photos that RUN held out as a camera whose picture drifts, and holds audits against the truth."""
    with tempfile.TemporaryDirectory() as temporary:
        place = work or Path(temporary)
        bundle, full = open_bundle(bundle_path), open_model(run, role="full")
        assert full.run is not None
        photos, names = full.run.dataset.held_out, [label.name for label in bundle.labels]
        bay = bay_of(photos, bundle)
        played = [play(place / f"pass-{number}", photos, bundle, bay, number, passes) for number in range(passes)]
        models = Models(Classifier.from_bundle(bundle), full, bundle.manifest.preprocessing)
        field = joined([asked(folder.with_suffix(".npz"), frames_in(folder), models) for folder in played])
        report = audited(played, bundle_path, run, place, rate_for(share, boosts(field.edge)))
        export = answers_at_export(place)
        document = {
            "photos": len(photos),
            "bay": [names[product] for product in sorted(bay)],
            "audit": against_truth(report, field, export, names),
            "drawn": [drawn(field, export, days, share, draws, names) for days in DAYS],
            "nothing happened": [nothing(export, days * passes, share, draws, names) for days in DAYS],
        }
    if as_json:
        click.echo(json_bytes(document).decode(), nl=False)
        return
    show(document)


def bay_of(photos: Sequence[Photo], bundle: Bundle) -> set[int]:
    """Products of whole coarse classes, drawn by chance, that have a quarter of the photos together."""
    kinds = [label.coarse or label.name for label in bundle.labels]
    bay: set[int] = set()
    for kind in np.random.default_rng(SEED).permutation(sorted(set(kinds))):
        if sum(photo.class_id in bay for photo in photos) < BAY_SHARE * len(photos):
            bay |= {product for product, of in enumerate(kinds) if of == kind}
    return bay


def play(folder: Path, photos: Sequence[Photo], bundle: Bundle, bay: set[int], number: int, passes: int) -> Path:
    """Writes the frames of a pass, in random order, as photos whose folder names what they show."""
    if (folder / "whole").exists():
        return folder
    rng = np.random.default_rng(SEED + number)
    for place, row in enumerate(rng.permutation(len(photos)).tolist()):
        photo = photos[row]
        drift = BAY if photo.class_id in bay else on_pass(number, passes)
        file = folder / "frames" / f"{place:05d}" / bundle.labels[photo.class_id].name / f"{row:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), drift.of(read_photo(photo.path), rng), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    (folder / "whole").touch()
    return folder


def frames_in(folder: Path) -> list[Path]:
    """The frames of a pass, in the order in which they are played."""
    return sorted((folder / "frames").rglob("*.png"))


def asked(file: Path, photos: Sequence[Path], models: Models) -> Answers:
    """Both models' answers about photos, as an audit asks them; those in the file are not asked for again."""

    def read(rows: slice) -> NDArray[np.uint8]:
        return np.stack([models.seen.apply(read_photo(path)) for path in photos[rows]])

    def both(pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        own = np.stack([models.full.preprocessing.apply(picture[..., ::-1]) for picture in pixels])
        return {"edge": models.edge.probabilities(pixels), "full": models.full.predict(own, lambda done: None)}

    with TerminalReporter().progress(file.stem, len(photos)) as advance:
        answers = answered(file, [str(path) for path in photos], read, both, "", advance)
    return Answers(answers["edge"], answers["full"])


def joined(answers: Sequence[Answers]) -> Answers:
    """The answers of several passes."""
    return Answers(np.concatenate([each.edge for each in answers]), np.concatenate([each.full for each in answers]))


def audited(played: Sequence[Path], bundle: Path, run: Path, work: Path, rate: float) -> dict[str, Any]:
    """The report of a sample of what was played, by `run` and `audit` themselves."""
    sample = work / "sample"
    if not sample.exists():
        for folder in played:
            place = ("--camera", folder / "frames", "--bundle", bundle, "--every-frame", "--quiet")
            edgebcnn("run", *place, "--sample", sample, "--config", f"sample.sample_rate = {rate}")
    report: dict[str, Any] = json.loads(edgebcnn("audit", sample, "--full", run, "--bundle", bundle, "--json"))
    return report


def answers_at_export(work: Path) -> Answers:
    """What the audit was told about the photos of the export."""
    with np.load(work / "sample-audit" / "export.npz") as saved:
        return Answers(saved["edge"], saved["full"])


def against_truth(report: dict[str, Any], field: Answers, export: Answers, names: Sequence[str]) -> dict[str, Any]:
    """What a report says beside what is true."""
    truth = agreement(field.edge.argmax(1), field.full.argmax(1)).value
    hurt, lost = fallen(field.all, export.all, names)
    return {
        "frames": len(field.edge),
        "kept": report["frames"],
        "truth": truth,
        "agreement": report["agreement"],
        "at export": report["export"],
        "covers": report["agreement"]["low"] <= truth <= report["agreement"]["high"],
        "drifted": [each["name"] for each in report["drifts"] if each["is_real"]],
        "hurt": len(hurt),
        "named": [
            {"name": each["name"], "level": each["level"], "hurt": each["name"] in hurt, "lost": each["name"] in lost}
            for each in report["products"]
            if each["level"]
        ],
    }


def edgebcnn(*arguments: object) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "edgebcnn", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def boosts(edge: NDArray[np.float32]) -> NDArray[np.float64]:
    """What the sampler's plan says of each frame, in the order in which they are seen."""
    plan = Boosts(np.zeros(edge.shape[1]))
    best = np.sort(edge, axis=1)[:, -2:]
    frames = zip(edge.argmax(1).tolist(), best.tolist(), strict=True)
    return np.array([plan.next([Candidate(named, "", sure), Candidate(0, "", less)]) for named, (less, sure) in frames])


def rate_for(share: float, of_boosts: NDArray[np.float64]) -> float:
    """The rate with which a share of the frames is kept, on average."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if np.minimum(1, of_boosts * middle).mean() > share else (middle, high)
    return low


def sampled(
    edge: NDArray[np.float32], seen: NDArray[np.int64], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Those of the frames seen that were kept, and with which probability."""
    of_boosts = boosts(edge[seen])
    kept_with = np.minimum(1, of_boosts * rate_for(share, of_boosts))
    kept = rng.random(len(seen)) < kept_with
    return seen[kept], kept_with[kept]


def drawn(field: Answers, export: Answers, days: int, share: float, draws: int, names: Sequence[str]) -> dict[str, Any]:
    """Samples of the drifting days: does the interval cover the truth, and who is named?"""
    truth = agreement(field.edge.argmax(1), field.full.argmax(1)).value
    hurt, lost = fallen(field.all, export.all, names)
    covers, kept, tallies = 0, 0, {"suffered": Tally(hurt, lost), "suspected": Tally(hurt, lost)}
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        seen = rng.permutation(np.tile(np.arange(len(field.edge)), days))
        rows, kept_with = sampled(field.edge, seen, share, rng)
        frames = field.of(rows)
        found = weighted_share(frames.edge == frames.product, kept_with)
        covers += found.low <= truth <= found.high
        kept += len(rows)
        tell(tallies, found_in(frames, export.all, kept_with, names))
    counts = {"frames": len(field.edge) * days, "kept": kept / draws, "coverage": covers / draws, "hurt": len(hurt)}
    return counts | {level: tally.as_json() for level, tally in tallies.items()}


def nothing(export: Answers, days: int, share: float, draws: int, names: Sequence[str]) -> dict[str, Any]:
    """Days on which nothing happened: their frames and the photos of the export are drawn from the same photos."""
    tallies = {"suffered": Tally(set(), set()), "suspected": Tally(set(), set())}
    kept = 0
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        before = export.of(rng.choice(len(export.edge), len(export.edge)))
        seen = rng.choice(len(export.edge), len(export.edge) * days)
        rows, kept_with = sampled(export.edge, seen, share, rng)
        kept += len(rows)
        tell(tallies, found_in(export.of(rows), before, kept_with, names))
    counts = {"frames": len(export.edge) * days, "kept": kept / draws}
    return counts | {level: {"named any": tally.wrong_any / draws} for level, tally in tallies.items()}


def found_in(
    frames: Frames, at_export: Frames, kept_with: NDArray[np.float64], names: Sequence[str]
) -> tuple[ProductFinding, ...]:
    """What an audit says of the products."""
    scenes = np.arange(len(frames.edge))
    return products_by_loss(frames, at_export, kept_with=kept_with, scenes=scenes, names=names)


def fallen(field: Frames, export: Frames, names: Sequence[str]) -> tuple[set[str], set[str]]:
    """Products whose agreement over all frames is lower than at export: by `HURT`, and by anything at all."""
    found = found_in(field, export, np.ones(len(field.edge)), names)
    losses = {each.name: each.export.value - each.field.value for each in found if each.export}
    return {name for name, loss in losses.items() if loss >= HURT}, {name for name, loss in losses.items() if loss > 0}


@dataclass
class Tally:
    """Names that were given, and how many of them are right.

    Attributes:
        hurt: Products that suffered.
        lost: Products that lost anything.
    """

    hurt: set[str]
    lost: set[str]
    samples: int = 0
    named: int = 0
    right: int = 0
    wrong_share: float = 0.0
    wrong_any: int = 0

    def add(self, named: set[str]) -> None:
        """Counts the names of one sample."""
        wrong = named - self.lost
        self.samples += 1
        self.named += len(named)
        self.right += len(named & self.hurt)
        self.wrong_share += len(wrong) / max(1, len(named))
        self.wrong_any += bool(wrong)

    def as_json(self) -> dict[str, float]:
        """Names a sample, those of them that suffered, the mean share of wrong names, samples with any."""
        mean = {"named": self.named, "of the hurt": self.right, "wrong share": self.wrong_share, "any": self.wrong_any}
        return {name: value / self.samples for name, value in mean.items()}


def tell(tallies: dict[str, Tally], found: Sequence[ProductFinding]) -> None:
    """Counts the names of one sample; who is said to have suffered is among those suspected too."""
    tallies["suffered"].add({each.name for each in found if each.level == "suffered"})
    tallies["suspected"].add({each.name for each in found if each.level})


def show(document: dict[str, Any]) -> None:
    """Prints the result as tables."""
    console = Console(highlight=False, soft_wrap=True, width=TABLE_WIDTH)
    audit = document["audit"]
    at_export, field = audit["at export"], audit["agreement"]
    console.print(f"{audit['kept']} of {audit['frames']} frames kept; drifted: {', '.join(audit['drifted'])}")
    console.print(
        f"agreement over all frames {100 * audit['truth']:.1f} %, by the sample {100 * field['value']:.1f} % "
        f"({100 * field['low']:.1f}-{100 * field['high']:.1f}), at export {100 * at_export['value']:.1f} %"
    )
    for each in audit["named"]:
        console.print(
            f"{each['level']}: {each['name']}{'' if each['hurt'] else ' (lost less)' if each['lost'] else ' (wrong)'}"
        )
    for title in ("drawn", "nothing happened"):
        table = Table(title=title, title_justify="left")
        rows = [flat(row) for row in document[title]]
        for heading in rows[0]:
            table.add_column(heading)
        for row in rows:
            table.add_row(*(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in row.values()))
        console.print(table)


def flat(row: dict[str, Any]) -> dict[str, float]:
    """`{"a": 1, "b": {"c": 2}}` as `{"a": 1, "b, c": 2}`."""
    cells: dict[str, float] = {}
    for name, value in row.items():
        cells |= {f"{name}, {part}": of for part, of in value.items()} if isinstance(value, dict) else {name: value}
    return cells


if __name__ == "__main__":
    main()
