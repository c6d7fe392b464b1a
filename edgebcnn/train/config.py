"""Choices of a training run: flags and configuration keys of `edgebcnn train`, kept in the run folder."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edgebcnn.model import heads
from edgebcnn.model.head import Tail
from edgebcnn.model.spelling import both, check_shared, with_absolute_files
from edgebcnn.preprocessing import Interpolation, Preprocessing
from edgebcnn.train.augment import Augmentation

Optimizer = Literal["adamw", "adam", "sgd"]
Schedule = Literal["cosine", "plateau"]
FitOn = Literal["train", "train+val"]

_HEAD = {"epochs": "head_epochs", "optimizer": "head_optimizer", "head_rate": "head_rate", "patience": "patience"}
_FINETUNE = {name: name for name in ("epochs", "optimizer", "backbone_rate", "patience")}

STAGE_OPTIONS = {
    "full_head": _HEAD,
    "full_finetune": {**_FINETUNE, "head_rate": "full_head_rate"},
    "compact_head": _HEAD,
    "compact_finetune": {**_FINETUNE, "epochs": "compact_epochs", "head_rate": "compact_head_rate"},
}
"""The option that each field of a stage comes from, on the command line and in Python."""

AUGMENTATION_OPTIONS = {"cast": "color_cast"}
"""The option of a field of the augmentation, where it has another name; the field's is that of run folders."""

_Choices = TypeVar("_Choices", bound=BaseModel)


class StageConfig(BaseModel):
    """How one stage of one model is fitted.

    Attributes:
        epochs: Passes over the photos at most.
        optimizer: `adamw`, `adam` (neither decays weights but the first), or `sgd` with Nesterov momentum.
        head_rate: Peak learning rate of pooling and classifier.
        backbone_rate: Peak learning rate of the backbone's trainable layers; 0 freezes them all.
        patience: Epochs without a better validation loss after which the rates are halved; twice as many end the stage.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    epochs: int = Field(ge=0)
    optimizer: Optimizer = "adamw"
    head_rate: float = Field(gt=0)
    backbone_rate: float = Field(default=0.0, ge=0)
    patience: int = Field(default=3, ge=1)


class TrainConfig(BaseModel):
    """Everything that decides what a run learns.

    Attributes:
        data: Folder of the photos, absolute.
        streams: The two streams, `A,B` or one for both; files absolute.
        shared_weights: Whether both are one network; None where they are equal.
        weights: `imagenet`, `none`, or a weights file, absolute; for both streams, or `A,B`.
        train_px: Side of the training images.
        input_px: Side of the images at inference. Random crops enlarge products while training; reading
            a little larger at test time evens that out (Touvron et al. 2019, arXiv 1906.06423).
        interpolation: How photos are made smaller where the model is used, see `Preprocessing`.
        pooling: What replaces the outer product in the compact model.
        rank: Size of that pooling; None takes its own.
        tail: What follows that pooling: `tanh`, `sqrt` or `l2`; None takes its own.
        class_rank: Rank of each product's quadratic form in `lrbc` pooling.
        frozen_through: Last layer that is never trained, of both streams or `A,B`; `auto` takes a backbone's own,
            `none` trains all layers.
        copies: Augmented copies of every photo in the cache.
        full_head, full_finetune, compact_head, compact_finetune: The four stages.
        fit_on: `train` keeps val to choose epochs and rates by. `train+val` is for a last fit, all choices made:
            it learns from both, runs all epochs, and keeps the last weights.
        schedule: After the warm-up, `cosine` falls to zero by the stage's end, `plateau` stays until validation stalls.
        batch_statistics: Whether fine-tuning normalizes by each batch's own mean and variance, rather than by those
            that a pretrained backbone came with. Training from nothing always does.
        averaging: Decay of the exponential moving average of the weights that is kept as the model; 1 keeps their mean,
            0 averages none.
        averaging_from: Share of a stage after which its weights count in the average.
        batch_size: Photos in a step.
        label_smoothing: Share of the label's probability that is spread over all products.
        balance: A photo of a product with n photos weighs n^-balance: 0 counts photos, 1 counts products.
        mixup: Parameter of the Beta distribution that blends two examples (Zhang et al. 2018, arXiv 1710.09412); 0 is
            none.
        cutmix: Parameter of the Beta distribution of the area that one example takes from another (Yun et al. 2019,
            arXiv 1905.04899); 0 is none. With both, each batch draws one of the two.
        weight_decay: Decoupled weight decay of AdamW.
        momentum: Of `sgd`.
        clip_norm: Largest global norm of a gradient.
        warmup: Share of a stage's steps in which the rate rises to its peak.
        dropout: Share of the descriptor dropped while training.
        distil_share: Share of the compact model's loss that comes from the full model's probabilities.
        temperature: Softens both models' probabilities in that part of the loss.
        pooled_weight: Weight of the feature-similarity distillation loss of the compact head, on frozen feature maps
            (`objective.similarity_loss`); None leaves it out.
        xla: Whether training steps are compiled by XLA.
        mixed_precision: Whether the streams compute in bfloat16 while training; what is kept and measured is float32.
        seed: Of everything random.
        allow_unreadable: Go on with any share of unreadable photos.
        augmentation: How photos are varied.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    data: str
    streams: str = "mobilenet_v2"
    shared_weights: bool | None = None
    weights: str = "imagenet"
    train_px: int = Field(default=320, ge=32, le=1024, multiple_of=32)
    input_px: int = Field(default=384, ge=32, le=1024, multiple_of=32)
    interpolation: Interpolation = "halving"
    pooling: str = "quadratic"
    rank: int | None = Field(default=None, ge=1)
    tail: Tail | None = None
    class_rank: int = Field(default=8, ge=2, multiple_of=2)
    frozen_through: str = "auto"
    copies: int = Field(default=8, ge=1, le=200)
    full_head: StageConfig = StageConfig(epochs=0, head_rate=1e-3)
    full_finetune: StageConfig = StageConfig(epochs=8, head_rate=1e-4, backbone_rate=5e-4)
    compact_head: StageConfig = StageConfig(epochs=0, head_rate=1e-3)
    compact_finetune: StageConfig = StageConfig(epochs=8, head_rate=1e-3, backbone_rate=5e-4)
    fit_on: FitOn = "train"
    schedule: Schedule = "cosine"
    batch_statistics: bool = False
    averaging: float = Field(default=0.0, ge=0, le=1)
    averaging_from: float = Field(default=0.0, ge=0, lt=1)
    batch_size: int = Field(default=32, ge=2)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    balance: float = Field(default=0.0, ge=0, le=1)
    mixup: float = Field(default=0.0, ge=0)
    cutmix: float = Field(default=0.0, ge=0)
    weight_decay: float = Field(default=0.02, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    clip_norm: float = Field(default=5.0, gt=0)
    warmup: float = Field(default=0.08, ge=0, lt=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    distil_share: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=2.0, gt=0)
    pooled_weight: float | None = Field(default=None, gt=0)
    xla: bool = False
    mixed_precision: bool = False
    seed: int = Field(default=0, ge=0, lt=2**32)
    allow_unreadable: bool = False
    augmentation: Augmentation = Augmentation()

    @field_validator("data")
    @classmethod
    def _data_is_found_from_anywhere(cls, data: str) -> str:
        return str(Path(data).absolute())

    @field_validator("weights")
    @classmethod
    def _weights_are_found_from_anywhere(cls, weights: str) -> str:
        starts = dict.fromkeys(both(weights))
        return ",".join(start if start in ("imagenet", "none") else str(Path(start).absolute()) for start in starts)

    @field_validator("streams")
    @classmethod
    def _models_are_found_from_anywhere(cls, streams: str) -> str:
        return with_absolute_files(streams)

    @model_validator(mode="after")
    def _streams_and_what_belongs_to_them_are_one_or_two(self) -> TrainConfig:
        check_shared(self.streams, self.shared_weights)
        both(self.frozen_through)
        return self

    @model_validator(mode="after")
    def _something_is_trained(self) -> TrainConfig:
        if not self.full_finetune.epochs and (self.weights == "none" or not self.full_head.epochs):
            raise ValueError("--epochs 0 leaves nothing to train: give 1 or more, or head epochs on pretrained weights")
        return self

    @model_validator(mode="after")
    def _a_feature_loss_needs_frozen_maps(self) -> TrainConfig:
        if self.pooled_weight and not self.compact_head.epochs:
            raise ValueError(
                "distillation.pooled_weight does nothing without epochs on frozen features: give --head-epochs"
            )
        return self

    @model_validator(mode="after")
    def _the_compact_head_exists(self) -> TrainConfig:
        heads.find_compact(self.pooling).check(self.rank, self.tail)
        return self

    def preprocessing(self, side_px: int) -> Preprocessing:
        """What turns a photo into an input of that side."""
        return Preprocessing(height_px=side_px, width_px=side_px, interpolation=self.interpolation)


def config_of(**options: Any) -> TrainConfig:
    """The configuration that options make, by the names of their flags; each that is missing keeps its default.

    Raises:
        TypeError: no option has that name.
        ValueError: an option has an impossible value.
    """
    own = [name for name in TrainConfig.model_fields if name not in (*STAGE_OPTIONS, "augmentation")]
    of_stages = (option for option_of in STAGE_OPTIONS.values() for option in option_of.values())
    of_augmentation = (AUGMENTATION_OPTIONS.get(name, name) for name in Augmentation.model_fields)
    known = {*own, *of_augmentation, *of_stages}
    for unknown in options.keys() - known:
        closest = get_close_matches(unknown, known, n=1)
        hint = f", did you mean {closest[0]}?" if closest else ": see edgebcnn train --help"
        raise TypeError(f"training has no option {unknown}{hint}")
    given = {"compact_epochs": options["epochs"], **options} if "epochs" in options else options
    parts: dict[str, BaseModel] = {"augmentation": _updated(Augmentation(), given, AUGMENTATION_OPTIONS)}
    for stage, option_of in STAGE_OPTIONS.items():
        parts[stage] = _updated(TrainConfig.model_fields[stage].default, given, option_of)
    return _checked(TrainConfig, {name: given[name] for name in own if name in given} | parts, {})


def _updated(defaults: _Choices, given: dict[str, Any], option_of: dict[str, str]) -> _Choices:
    fields = type(defaults).model_fields
    changes = {name: given[option_of.get(name, name)] for name in fields if option_of.get(name, name) in given}
    return _checked(type(defaults), defaults.model_dump() | changes, option_of)


def _checked(kind: type[_Choices], values: dict[str, Any], option_of: dict[str, str]) -> _Choices:
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        option = f"{option_of.get(field, field)}={first['input']!r}: " if field else ""
        raise ValueError(option + first["msg"].removeprefix("Value error, ")) from error
