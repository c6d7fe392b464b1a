"""Holds the measured errors of the layers of a quantized model file: values, JSON, a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from rich.box import SIMPLE_HEAD
from rich.table import Table

from edgebcnn.bundle import REPORT_NAME, Bundle, Precision
from edgebcnn.errors import BundleError
from edgebcnn.quantize.inspect.audit import Audit, audit
from edgebcnn.untrusted.files import read_json

_WORST = 3


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LayerError(_Strict):
    """How far one layer of a quantized file is from the float file it was made from.

    Attributes:
        name: The layer, as `edgebcnn calibrate` names it.
        op: TFLite's name of what computes it.
        dtype: Of its output in the quantized file.
        sqnr_db: 10 log₁₀ (Σ x² / Σ (x - y)²) with x its values in the float file and y those in the quantized one: what
            all layers before it have added up to, and itself; None where nothing is lost, or all of x is 0.
        cosine: Σ xy / (‖x‖ ‖y‖); None where either is 0.
        alone: Mean total variation ½ Σ |p - q| between the float file's probabilities and those with this layer alone
            in int8; None where that was not measured.
    """

    name: str
    op: str
    dtype: str
    sqnr_db: float | None
    cosine: float | None
    alone: float | None = None


class LayerErrors(_Strict):
    """All layers of a quantized file, in the order of computation.

    Attributes:
        photos: How many photos both files ran on.
        calibrated_on: Whether these are the calibration photos, because no others were left.
        distance: As `LayerError.alone`, with all layers in int8 but the probabilities as they are before they are
            rounded to 1/256; None where that was not measured.
        layers: The layers.
    """

    photos: int
    calibrated_on: bool
    distance: float | None = None
    layers: tuple[LayerError, ...] = Field(strict=False)

    def worst(self, count: int = _WORST) -> tuple[LayerError, ...]:
        """The layers that change probabilities most, worst first; where not measured, those with the lowest SQNR."""
        if any(layer.alone is not None for layer in self.layers):
            return tuple(sorted(self.layers, key=lambda layer: -(layer.alone or 0))[:count])
        return tuple(sorted(self.layers, key=lambda layer: _or_infinite(layer.sqnr_db))[:count])

    def __str__(self) -> str:
        """The effect of all layers on the probabilities, and the layers with the largest effect."""
        if self.distance is None:
            shown = ", ".join(f"{layer.name} ({_number(layer.sqnr_db, 1)} dB)" for layer in self.worst())
            return f"layers with the lowest SQNR against float: {shown}"
        shown = ", ".join(f"{layer.name} {_number(layer.alone, 4)}" for layer in self.worst())
        return (
            f"int8 rounding moves {100 * self.distance:.2f} % of the probability to other products, mean over photos; "
            f"largest single layers (share 0-1): {shown}"
        )


@dataclass(frozen=True)
class ModelLayers:
    """One model file of a bundle.

    Attributes:
        audit: What it computes in, read from the file.
        errors: Errors of its layers, from the bundle's report; None for files in float.
    """

    audit: Audit
    errors: LayerErrors | None

    def as_json(self) -> dict[str, Any]:
        """Every op, and every layer."""
        return {
            "integer_only": self.audit.integer_only,
            "summary": self.audit.proof(),
            "ops": [asdict(op) for op in self.audit.ops],
            "layers": None if self.errors is None else self.errors.model_dump(mode="json"),
        }


def read_layers(bundle: Bundle, precision: Precision | None = None) -> dict[Precision, ModelLayers]:
    """Reads the ops of the model files of a bundle and the errors of their layers.

    Args:
        bundle: The bundle.
        precision: Precision of the only file to read; None for all.

    Raises:
        BundleError: it has no such file, or its report is not one that this version writes.
    """
    chosen = bundle.manifest.models if precision is None else [precision]
    files = {name: bundle.model_path(name) for name in chosen}
    report = bundle.path / REPORT_NAME
    try:
        models = read_json(report)["models"]
        recorded = {name: models[name]["layers"] for name in chosen}
        errors = {name: LayerErrors.model_validate(layers) for name, layers in recorded.items() if layers is not None}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{report} has no layer errors: export the bundle again") from error
    return {name: ModelLayers(audit(file.read_bytes()), errors.get(name)) for name, file in files.items()}


def check_integer_only(models: Mapping[Precision, ModelLayers]) -> None:
    """Checks that no op of any of these files sees a float.

    Raises:
        BundleError: one does.
    """
    for precision, model in models.items():
        if not model.audit.integer_only:
            raise BundleError(
                f"the {precision} model is not integer only: {model.audit.summary()}; export it with --int8, "
                "or name the int8 model with --precision"
            )


def layers_table(errors: LayerErrors) -> Table:
    """A row for each layer; the worst ones are marked."""
    table = Table(
        title=f"Error of each layer against the float model, on {errors.photos} photos",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("layer", overflow="fold", min_width=20)
    table.add_column("op")
    table.add_column("gives")
    for column in ("SQNR dB", "cosine", "alone"):
        table.add_column(column, justify="right", no_wrap=True)
    worst = errors.worst()
    for layer in errors.layers:
        numbers = (_number(layer.sqnr_db, 1), _number(layer.cosine, 5), _number(layer.alone, 4))
        table.add_row(layer.name, layer.op, layer.dtype, *numbers, style="bold" if layer in worst else None)
    return table


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _or_infinite(value: float | None) -> float:
    return float("inf") if value is None else value
