"""Runs `edgebcnn demo`: the full workflow, on a generated shelf."""

from __future__ import annotations

import resource
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from edgebcnn.atomic import write_json
from edgebcnn.demo.products import PRODUCTS
from edgebcnn.demo.shelf import ShelfSizes, draw_shelf, draw_video
from edgebcnn.device.classifier import Classifier
from edgebcnn.loop.loop import CameraLoop
from edgebcnn.loop.summary import Summary
from edgebcnn.progress import Reporter
from edgebcnn.quantize.calibration.recipe import load_recipe
from edgebcnn.quantize.choices import ExportChoices
from edgebcnn.quantize.export import ExportResult, export
from edgebcnn.sinks.terminal import ProgressSink
from edgebcnn.sources.open import open_source
from edgebcnn.train.augment import Augmentation
from edgebcnn.train.claim import new_name
from edgebcnn.train.config import StageConfig, TrainConfig
from edgebcnn.train.steps import train

RESULT_NAME = "demo.json"
"""File name of the demo's results, in its folder."""

SIZES = ShelfSizes(train=60, val=10, test=20)
SECONDS_PER_PRODUCT, VIDEO_FPS = 1.5, 15

AUGMENTATION = Augmentation(
    min_area=0.7, max_aspect=1.1, rotation_deg=4, perspective=0.02, blur_px=0.6, jpeg_quality=60
)
"""Milder than for real photos: the drawings are varied already, and the packs fill the image."""


@dataclass(frozen=True)
class DemoResult:
    """The results of the demo."""

    exported: ExportResult
    on_video: Summary
    elapsed_s: float
    peak_memory_bytes: int

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        return {
            "export": self.exported.as_json(),
            "video": self.on_video.as_json(),
            "elapsed_s": round(self.elapsed_s, 1),
            "peak_memory_bytes": self.peak_memory_bytes,
        }


def config(data: Path, *, seed: int) -> TrainConfig:
    """Choices for a few hundred small drawings and a network that starts from nothing."""
    return TrainConfig(
        data=str(data.absolute()),
        streams="small",
        weights="none",
        train_px=96,
        input_px=96,
        pooling="hadamard",
        rank=256,
        copies=4,
        full_finetune=StageConfig(epochs=16, head_rate=2e-3, backbone_rate=2e-3, patience=6),
        compact_head=StageConfig(epochs=3, head_rate=2e-3),
        compact_finetune=StageConfig(epochs=6, head_rate=1e-3, backbone_rate=1e-3),
        batch_size=32,
        augmentation=AUGMENTATION,
        seed=seed,
    )


def tell(folder: Path, *, seed: int, reporter: Reporter, stop: Event) -> DemoResult:
    """Draws a shelf, trains on it, exports int8 and runs the camera loop on a video of it.

    Args:
        folder: Where drawings, run and bundle go; photos that are there already are used again.
        seed: Of everything random.
        reporter: Receives progress and messages.
        stop: Set to end training early.

    Raises:
        EdgebcnnError: any step failed.
    """
    started_s = time.monotonic()
    shelf, video = folder / "data", folder / "shelf.avi"
    photos = len(PRODUCTS) * (SIZES.train + SIZES.val + SIZES.test)
    with reporter.progress(f"drawing photos of {len(PRODUCTS)} products", photos) as advance:
        draw_shelf(shelf, seed=seed, sizes=SIZES, on_photo=lambda: advance(1))
    with reporter.progress("drawing a video", round(SECONDS_PER_PRODUCT * VIDEO_FPS) * len(PRODUCTS)) as advance:
        draw_video(
            video, seed=seed, seconds_per_product=SECONDS_PER_PRODUCT, fps=VIDEO_FPS, on_frame=lambda: advance(1)
        )
    trained = train(config(shelf, seed=seed), folder / "runs" / new_name(), reporter=reporter, stop=stop)
    exported = export(
        trained.run,
        trained.run.path / "bundle",
        # The demo continues whatever the verdict, which its reader sees.
        choices=ExportChoices(("int8",), load_recipe("balanced"), accept_drop=True),
        reporter=reporter,
    )
    on_video = _run(exported, video, reporter)
    peak_memory_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB
    result = DemoResult(exported, on_video, time.monotonic() - started_s, peak_memory_bytes)
    write_json(folder / RESULT_NAME, result.as_json())
    return result


def _run(exported: ExportResult, video: Path, reporter: Reporter) -> Summary:
    classifier = Classifier.from_bundle(exported.bundle)
    names = {label.name for label in classifier.labels}
    with closing(open_source(str(video), labels=names, reporter=reporter)) as source:
        loop = CameraLoop(source, classifier, [ProgressSink(reporter, source.total or 0)])
        loop.run()
        return loop.summary()
