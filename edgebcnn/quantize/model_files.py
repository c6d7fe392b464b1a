"""Makes the model files of an export and measures the error of their layers.

- `int8` is calibrated on photos, and may be fine-tuned then. `mixed` is the same with the layers that cost the most in
  float; `int16` and `dynamic` get the same corrected biases, and are never fine-tuned.
- `fp16` and `float32` need no photos.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Precision
from edgebcnn.model.bcnn import Bcnn, folded
from edgebcnn.progress import Reporter
from edgebcnn.quantize.calibrate_run import Int8Calibration, calibrate_int8, chosen_photos
from edgebcnn.quantize.choices import ExportChoices
from edgebcnn.quantize.inspect.audit import Audit, audit
from edgebcnn.quantize.inspect.layer_error import FloatReference, Simulation, layer_costs, photos_needed, propagated
from edgebcnn.quantize.inspect.layers import LayerErrors
from edgebcnn.quantize.inspect.mixed import Mixed, choose_wide, tensors_of
from edgebcnn.quantize.qat.finetune import FineTuning, Tuning
from edgebcnn.quantize.tflite.bias import with_corrected_biases
from edgebcnn.quantize.tflite.convert import float_file
from edgebcnn.quantize.tflite.int8 import Int8Model
from edgebcnn.quantize.tflite.int16 import quantize_int16
from edgebcnn.quantize.tflite.metadata import with_metadata
from edgebcnn.train.features import PreparedPhotos
from edgebcnn.train.run_folder import TrainedRun

CALIBRATED: frozenset[Precision] = frozenset({"int8", "mixed", "int16", "dynamic"})
"""Precisions whose ranges or biases are measured on photos."""

TUNED: frozenset[Precision] = frozenset({"int8", "mixed"})
"""Precisions that quantization-aware fine-tuning is for."""

_IN_FLOAT: frozenset[Precision] = frozenset({"fp16", "float32"})


@dataclass(frozen=True)
class MadeFile:
    """A model file.

    Attributes:
        content: The file.
        audit: What it computes in.
        layers: What its layers lose; None for files in float.
        mixed: Which layers of a `mixed` file are in float.
        tuning: How it was fine-tuned; None where it was not.
    """

    content: bytes
    audit: Audit
    layers: LayerErrors | None = None
    mixed: Mixed | None = None
    tuning: Tuning | None = None


class Maker:
    """Makes the model files of a run's compact model; what several of them need is made once.

    Args:
        run: The run.
        full: Its full model, the teacher in fine-tuning.
        compact: Its compact model.
        choices: Which files, and how.
        reporter: Receives progress and messages.

    Raises:
        DataError: there is no photo to fine-tune on.
    """

    def __init__(
        self, run: TrainedRun, full: Bcnn, compact: Bcnn, *, choices: ExportChoices, reporter: Reporter
    ) -> None:
        self._run, self._preprocessing, self._reporter = run, run.preprocessing, reporter
        self._compact, self._choices = compact, choices
        self._fine_tuning = FineTuning(run, full, epochs=choices.qat_epochs) if choices.qat_epochs else None

    def make(self) -> dict[Precision, MadeFile]:
        """Makes the files.

        Raises:
            DataError: the calibration photos or the recipe cannot be used.
            QuantizationError: TFLite has no op for a part of the model.
        """
        return {precision: self._made(precision) for precision in self._choices.precisions}

    @cached_property
    def calibration(self) -> Int8Calibration | None:
        """The int8 model as calibrated, which all others start from; None where no file needs it."""
        choices = self._choices
        if CALIBRATED.isdisjoint(choices.precisions):
            return None
        chosen = chosen_photos(self._run, choices.recipe, captured=choices.captured, reporter=self._reporter)
        return calibrate_int8(
            self._model, chosen, preprocessing=self._preprocessing, io=choices.io, reporter=self._reporter
        )

    @property
    def untuned(self) -> MadeFile | None:
        """The int8 file that fine-tuning began with; None where nothing was fine-tuned."""
        return None if self._fine_tuning is None else self._described(self._plain.int8.content)

    def _made(self, precision: Precision) -> MadeFile:
        if precision in _IN_FLOAT:
            return self._described(self._converted(precision))
        mixed = self._mixed if precision == "mixed" else None
        content = self._quantized(precision, mixed)
        tuning = self._tuned[1] if precision in TUNED else None
        layers = self._layer_errors(precision, content)
        return replace(self._described(content), layers=layers, mixed=mixed, tuning=tuning)

    def _described(self, content: bytes) -> MadeFile:
        """The file with its metadata."""
        labels = self._run.dataset.labels
        content = with_metadata(content, name=self._run.name, labels=labels, preprocessing=self._preprocessing)
        return MadeFile(content, audit(content))

    @property
    def _plain(self) -> Int8Calibration:
        assert self.calibration is not None, "only calibrated files read it"
        return self.calibration

    @cached_property
    def _tuned(self) -> tuple[Int8Model, Tuning | None]:
        plain = self._plain.int8
        if self._fine_tuning is None:
            return plain, None
        return self._fine_tuning.tuned(plain, self._model, io=self._choices.io, reporter=self._reporter)

    @property
    def _int8(self) -> Int8Model:
        return self._tuned[0]

    @cached_property
    def _model(self) -> Any:
        return folded(self._compact, height_px=self._preprocessing.height_px, width_px=self._preprocessing.width_px)

    def _quantized(self, precision: Precision, mixed: Mixed | None) -> bytes:
        if precision == "int8":
            return self._int8.content
        if mixed is not None:
            source = self._int8.ranged
            with self._reporter.progress("converting to mixed", 0):
                return source.quantized(self._choices.io, wide=tensors_of(source.float_tflite, mixed))[0]
        if precision == "int16":
            return self._int16()
        source = self._plain.int8.original
        return with_corrected_biases(self._converted(precision), source.float_tflite, source.means)

    def _int16(self) -> bytes:
        photos_u8 = PreparedPhotos(self._plain.chosen.photos, self._preprocessing)[:]
        with self._reporter.progress("converting to int16", len(photos_u8)) as advance:
            return quantize_int16(
                self._plain.int8.corrected, photos_u8, preprocessing=self._preprocessing, advance=advance
            )

    def _converted(self, precision: Precision) -> bytes:
        compat = self._choices.runtime_compat
        with self._reporter.progress(f"converting to {precision}", 0):
            return float_file(self._model, precision, preprocessing=self._preprocessing, runtime_compat=compat)

    @cached_property
    def _probes(self) -> tuple[NDArray[np.uint8], bool]:
        """Photos for measuring layers, and whether they are calibration photos."""
        count = photos_needed(self._plain.int8.ranged.float_tflite)
        photos = self._plain.others or self._plain.chosen.photos
        return PreparedPhotos(photos[:count], self._preprocessing)[:], not self._plain.others

    @cached_property
    def _simulation(self) -> Simulation:
        return Simulation(self._int8.ranged.float_tflite, self._int8.content)

    @cached_property
    def _reference_run(self) -> FloatReference:
        return FloatReference(self._int8.ranged.float_tflite, self._probes[0], self._preprocessing)

    @cached_property
    def _costs(self) -> dict[str, float]:
        with self._reporter.progress("measuring each layer in int8", len(self._simulation.layers)) as advance:
            return layer_costs(self._simulation, self._reference_run, advance=advance)

    @cached_property
    def _mixed(self) -> Mixed:
        with self._reporter.progress("choosing layers to keep in float", 0):
            return choose_wide(self._int8.ranged.float_tflite, self._simulation, self._reference_run, self._costs)

    def _layer_errors(self, precision: Precision, content: bytes) -> LayerErrors:
        photos_u8, calibrated_on = self._probes
        source = self._int8 if precision in TUNED else self._plain.int8
        with self._reporter.progress(f"comparing the layers of {precision} with float", len(photos_u8)) as advance:
            layers = propagated(
                source.ranged.float_tflite, content, photos_u8, preprocessing=self._preprocessing, advance=advance
            )
        if precision != "int8":
            return LayerErrors(photos=len(photos_u8), calibrated_on=calibrated_on, layers=layers)
        moved = {name: round(value, 5) for name, value in self._costs.items()}
        return LayerErrors(
            photos=len(photos_u8),
            calibrated_on=calibrated_on,
            distance=round(self._reference_run.distance(self._simulation.tflite(self._simulation.layers)), 5),
            layers=tuple(layer.model_copy(update={"alone": moved.get(layer.name)}) for layer in layers),
        )
