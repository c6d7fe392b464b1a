"""Fine-tunes an int8 model with its rounding in the forward pass (quantization-aware training).

    int8 file ── network with the same rounding ── a few epochs on training photos ── float file ── int8 file

Quantization-aware fine-tuning starts from a calibrated model, whose ranges it keeps. Layers that the run froze, and
normalization, stay as they are; all others are trained with the run's own loss, on augmented training photos and the
predictions of the full model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgebcnn.model.bcnn import Bcnn, build
from edgebcnn.model.keras import deterministic
from edgebcnn.progress import Reporter
from edgebcnn.quantize.calibration.photos import learnable
from edgebcnn.quantize.qat.fake_quant import FakeQuantized
from edgebcnn.quantize.tflite.int8 import Int8Model, QuantizedIo, RangedFloatModel
from edgebcnn.train.config import StageConfig, TrainConfig
from edgebcnn.train.features import AugmentedPhotos, run_through
from edgebcnn.train.fit import EpochReport, Examples, Stage
from edgebcnn.train.inference import inference
from edgebcnn.train.material import class_ids, frozen
from edgebcnn.train.run_folder import TrainedRun

DEFAULT_EPOCHS = 1

CURVE_POINTS = 40
"""Of the loss: single batches jump about, and one number an epoch would be no curve."""

_RATE = 1e-4
"""Peak learning rate of weights in units of 127 steps: a hundred of them move one by a step or so."""


@dataclass(frozen=True)
class Tuning:
    """How the fine-tuning went.

    Attributes:
        epochs: Passes over the photos.
        photos: How many there were.
        losses: Mean loss of each epoch.
        curve: Photos learned from, and the mean loss since the point before; at most `CURVE_POINTS`.
    """

    epochs: int
    photos: int
    losses: tuple[float, ...]
    curve: tuple[tuple[int, float], ...]

    def __str__(self) -> str:
        """One line."""
        losses = " → ".join(f"{loss:.4f}" for loss in self.losses)
        epochs = "1 epoch" if self.epochs == 1 else f"{self.epochs} epochs"
        return f"fine-tuned with simulated quantization: {epochs} of {self.photos} training photos, loss {losses}"

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "epochs": self.epochs,
            "photos": self.photos,
            "losses": [round(loss, 6) for loss in self.losses],
            "curve": [{"photos": photos, "loss": round(loss, 6)} for photos, loss in self.curve],
        }


class FineTuning:
    """Quantization-aware fine-tuning of a run's compact model.

    Args:
        run: The run.
        full: Its full model, the teacher.
        epochs: Passes over the photos, at least 1.

    Raises:
        DataError: no photo is left to learn from.
    """

    def __init__(self, run: TrainedRun, full: Bcnn, *, epochs: int = DEFAULT_EPOCHS) -> None:
        self._run, self._full, self._epochs = run, full, epochs
        self._photos = learnable(run.dataset)

    def tuned(self, int8: Int8Model, model: Any, *, io: QuantizedIo, reporter: Reporter) -> tuple[Int8Model, Tuning]:
        """An int8 model with the ranges of another and weights that have learned.

        Args:
            int8: Where it starts.
            model: The Keras model that it was made of.
            io: What its file takes and gives.
            reporter: Receives progress and messages.

        Raises:
            QuantizationError: one cannot learn through an op of the model.
            TrainingError: the loss is not a number.
        """
        with reporter.progress("building the network with simulated quantization", 0):
            rounding = FakeQuantized(int8.corrected, int8.content, learning=self._learning(model))
        with deterministic():
            losses, curve = self._fit(rounding.network, self._examples(reporter), reporter)
        with reporter.progress("converting to int8 again", 0):
            ranged = RangedFloatModel(rounding.float_file(), int8.ranged.ranges, means={})
            content, corrected = ranged.quantized(io)
        tuned = replace(int8, content=content, corrected=corrected, ranged=ranged)
        return tuned, Tuning(self._epochs, len(self._photos), losses, curve)

    def _learning(self, model: Any) -> frozenset[str]:
        """Layers with a kernel that neither the model nor the run froze."""
        prefix = build(self._run.architecture("compact"), frozen_through=frozen(self._run.config)).prefix
        held = frozenset() if prefix is None else frozenset(layer.name for layer in prefix.layers)
        return frozenset(layer.name for layer in model.layers if layer.name not in held and _has_kernel(layer))

    def _examples(self, reporter: Reporter) -> Examples:
        config = self._run.config
        views = AugmentedPhotos(
            self._photos, config.preprocessing(config.train_px), config.augmentation, self._epochs, config.seed
        )
        with reporter.progress("full model, for distillation", len(views)) as advance:
            teacher = run_through(inference(self._full.model), views, advance)
        # A row of them is made when it is read, which is all that a stage needs of an array.
        return Examples(cast("NDArray[np.uint8]", views), class_ids(self._photos), teacher)

    def _fit(
        self, network: Any, examples: Examples, reporter: Reporter
    ) -> tuple[tuple[float, ...], tuple[tuple[int, float], ...]]:
        """Mean loss of each epoch, and the curve."""
        dataset, epochs, batches = self._run.dataset, list[EpochReport](), list[tuple[float, int]]()
        stage = Stage(
            "compact/qat",
            backbone=None,
            head=network,
            config=_config(self._run.config),
            stage=StageConfig(epochs=self._epochs, optimizer="adam", head_rate=_RATE),
            counts=np.bincount(class_ids(dataset.train), minlength=len(dataset.labels)),
            batch_statistics=False,
        )
        bar = reporter.progress("quantization-aware fine-tuning", self._epochs * len(self._photos))
        with TemporaryDirectory() as folder, bar as advance:
            stage.fit(
                examples,
                None,
                checkpoint=Path(folder) / "qat.npz",
                advance=advance,
                on_epoch=epochs.append,
                on_batch=lambda *batch: batches.append(batch),
            )
        return tuple(epoch.loss for epoch in epochs), _curve(batches)


def _curve(batches: Sequence[tuple[float, int]]) -> tuple[tuple[int, float], ...]:
    losses, photos = np.array(batches).T
    parts = [part for part in np.array_split(np.arange(len(batches)), CURVE_POINTS) if len(part)]
    seen = np.cumsum(photos)
    return tuple((int(seen[part[-1]]), float(np.average(losses[part], weights=photos[part]))) for part in parts)


def _config(config: TrainConfig) -> TrainConfig:
    """The run's choices, less those for longer training: the rate falls to zero, and the last weights count."""
    return config.model_copy(update={"schedule": "cosine", "averaging": 0.0, "xla": False})


def _has_kernel(layer: Any) -> bool:
    return bool(layer.trainable_weights) and (hasattr(layer, "kernel") or hasattr(layer, "depthwise_kernel"))
