"""How one stage of one model is fitted: steps, schedule, validation, best weights, and going on after a kill."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.atomic import replacing_file
from edgebcnn.errors import DivergedError, RunError
from edgebcnn.model.keras import keras, tf
from edgebcnn.model.normalization import normalization_folded
from edgebcnn.progress import Advance
from edgebcnn.train.config import StageConfig, TrainConfig
from edgebcnn.train.features import read_ahead, run_through
from edgebcnn.train.inference import as_float, inference
from edgebcnn.train.objective import Objective, draw_mask, mixed, similarity_loss
from edgebcnn.untrusted.files import ArrayFile, json_of, open_file

RATE_CUT = 0.5

BATCH_MOMENTUM = 0.98
"""Of the moving statistics of batch normalization: the last fifty batches count."""


@dataclass(frozen=True)
class Examples:
    """The examples of a stage, for training or validation.

    Attributes:
        inputs: `(copies·n, ...)`, copy by copy: float16 features or uint8 images.
        classes: `(n,)` class ids; -1 for a photo without a label, which needs a teacher.
        teacher: `(copies·n, k)` logits of the full model, or None.
    """

    inputs: NDArray[Any]
    classes: NDArray[np.int64]
    teacher: NDArray[Any] | None = None

    @property
    def copies(self) -> int:
        """Augmented copies of every photo."""
        return len(self.inputs) // len(self.classes)


@dataclass(frozen=True)
class EpochReport:
    """One line of a run's history; NaN where there was no validation."""

    role: str
    stage: str
    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    head_rate: float
    seconds: float


@dataclass
class _Progress:
    epoch: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    rate_factor: float = 1.0
    stalled_since: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class Stage:
    """One stage of fitting: `head` on frozen features, or `finetune` of backbone and head.

    The learning rate is the product of a linear warm-up, a cosine over all steps (Loshchilov and Hutter 2017,
    arXiv 1608.03983) or none, and a factor that is halved whenever the validation loss has not improved for `patience`
    epochs. The loss is `Objective`'s. With averaging, the model that is validated and kept is an average of the
    weights, w̄ ← δ·w̄ + (1 - δ)·w at the t-th step after `averaging_from`: their exponential moving average (Polyak and
    Juditsky 1992) with δ = min(averaging, (1 + t) / (10 + t)), so that the first weights are forgotten early; or with
    an averaging of 1 their mean, δ = t / (1 + t) (stochastic weight averaging, Izmailov et al. 2018, arXiv 1803.05407).

    Args:
        name: `role/stage`, for messages and history.
        backbone: Trainable layers before the pooling, or None where the inputs are feature maps.
        head: Feature map to logits.
        config: The run's choices.
        stage: This stage's choices.
        counts: `(k,)` photos of each product in train.
        batch_statistics: Whether the backbone normalizes by the batch, and remembers what the last few batches had,
            or by its stored statistics, which stay.
        pooled: From feature maps to logits and descriptor, of the model that is fitted and of its teacher, where the
            config has a `pooled_weight`; not with a backbone.
    """

    def __init__(
        self,
        name: str,
        *,
        backbone: Any | None,
        head: Any,
        config: TrainConfig,
        stage: StageConfig,
        counts: NDArray[np.int64],
        batch_statistics: bool,
        pooled: tuple[Any, Any] | None = None,
    ) -> None:
        self.role, self.stage_name = name.split("/")
        self._head, self._pooled = head, pooled
        self._config, self._stage = config, stage
        self._objective = Objective(config, counts)
        self._backbone = None if backbone is None else _maps_of(backbone, batch_statistics)
        self._groups = [(head, stage.head_rate)] + ([(backbone, stage.backbone_rate)] if backbone is not None else [])
        self._optimizers = [_optimizer(config, stage, network) for network, _ in self._groups]
        self._variables = [variable for network, _ in self._groups for variable in network.weights]
        averaged = self._variables if config.averaging else []
        self._average = [tf.Variable(variable, trainable=False) for variable in averaged]
        self._steps = tf.Variable(0.0, trainable=False)
        self._is_averaging = tf.Variable(0.0, trainable=False)
        self._train_step = tf.function(
            self._step, autograph=False, reduce_retracing=not config.xla, jit_compile=config.xla
        )
        self._logits = inference(self._forward)

    def fit(
        self,
        train: Examples,
        validation: Examples | None,
        *,
        checkpoint: Path,
        advance: Advance,
        on_epoch: Callable[[EpochReport], None],
        on_batch: Callable[[float, int], None] = lambda loss, photos: None,
    ) -> None:
        """Fits until the epochs are used up or validation stalls, and leaves the best weights in the network.

        Args:
            train: What to learn from.
            validation: What decides on rates, the end, and the best weights: by the cross-entropy of its labels, or
                where it has a teacher, by the divergence from that. With None, all epochs run and the last weights are
                kept.
            checkpoint: File that an interrupted stage resumes from; written after every epoch.
            advance: Called with the number of photos learned from; what it raises ends the stage.
            on_epoch: Called after every epoch; after a resume also for the epochs before it.
            on_batch: Called with the mean loss of every batch, before it was learned from, and its number of photos.

        Raises:
            DivergedError: the loss or a weight is not a number; the message names the batch or epoch.
            RunError: the checkpoint cannot be read.
        """
        progress, best = self._restore(checkpoint)
        if progress.epoch == 0 and validation is not None:
            progress.best_loss, _ = self._validate(validation)
        for row in progress.history:
            on_epoch(EpochReport(**row))
        advance(progress.epoch * len(train.classes))
        try:
            while progress.epoch < self._stage.epochs and not self._is_over(progress):
                report = self._epoch(train, validation, progress.epoch, progress.rate_factor, advance, on_batch)
                best = self._judge(progress, report, best, is_judged=validation is not None)
                self._save(checkpoint, progress, best)
                on_epoch(report)
        finally:
            self._assign(best)

    def _epoch(
        self,
        train: Examples,
        validation: Examples | None,
        epoch: int,
        rate_factor: float,
        advance: Advance,
        on_batch: Callable[[float, int], None],
    ) -> EpochReport:
        started_s = time.monotonic()
        name = f"{self.role}/{self.stage_name}"
        order = epoch_order(train, self._config, name, epoch)
        mixing = np.random.default_rng((self._config.seed, epoch, *b"mix", *name.encode()))
        total_loss, right = 0.0, 0
        for number, (inputs, classes, teacher) in enumerate(read_ahead(_reader(train), order)):
            self._set_rates((epoch + number / len(order)) / self._stage.epochs, rate_factor)
            mask = draw_mask(self._config, (inputs.shape[1], inputs.shape[2]), mixing)
            loss, hits = self._train_step(inputs, classes, teacher, None if mask is None else tf.constant(mask))
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the loss of {self.role}/{self.stage_name} is not a number at epoch {epoch + 1}, batch "
                    f"{number + 1}; the best weights so far are kept: lower the learning rates and start again"
                )
            on_batch(float(loss), len(classes))
            total_loss += float(loss) * len(classes)
            right += int(hits)
            advance(len(classes))
        self._check_weights(epoch + 1)
        val_loss, val_accuracy = (math.nan, math.nan) if validation is None else self._validate(validation)
        return EpochReport(
            role=self.role,
            stage=self.stage_name,
            epoch=epoch + 1,
            loss=total_loss / len(train.classes),
            accuracy=right / max(1, int(np.sum(train.classes >= 0))),
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            head_rate=float(self._optimizers[0].learning_rate.numpy()),
            seconds=time.monotonic() - started_s,
        )

    def _check_weights(self, epoch: int) -> None:
        """Checks the weights as well, because the loss of the last batch precedes its step."""
        if not all(np.isfinite(weights).all() for weights in self._kept_weights()):
            raise DivergedError(
                f"a weight of {self.role}/{self.stage_name} is not a number after epoch {epoch}; the best weights so "
                "far are kept: lower the learning rates and start again"
            )

    def _judge(
        self, progress: _Progress, report: EpochReport, best: list[NDArray[Any]], *, is_judged: bool
    ) -> list[NDArray[Any]]:
        progress.epoch = report.epoch
        progress.history.append(asdict(report))
        if not is_judged or report.val_loss < progress.best_loss:
            progress.best_loss, progress.best_epoch, progress.stalled_since = (
                report.val_loss,
                report.epoch,
                report.epoch,
            )
            return self._kept_weights()
        if progress.epoch - progress.stalled_since >= self._stage.patience:
            progress.rate_factor *= RATE_CUT
            progress.stalled_since = progress.epoch
        return best

    def _is_over(self, progress: _Progress) -> bool:
        return progress.epoch - progress.best_epoch >= 2 * self._stage.patience

    def _set_rates(self, done: float, factor: float) -> None:
        warmup = self._config.warmup
        falling = 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
        after = falling if self._config.schedule == "cosine" else 1.0
        shape = done / warmup if done < warmup else after
        for (_, peak), optimizer in zip(self._groups, self._optimizers, strict=True):
            optimizer.learning_rate.assign(peak * shape * factor)
        self._is_averaging.assign(float(done >= self._config.averaging_from))

    def _step(self, inputs: Any, classes: Any, teacher: Any, mask: Any) -> tuple[Any, Any]:
        x, targets = as_float(inputs), self._objective.targets(classes)
        soft = None if teacher is None else self._objective.soft_targets(teacher)
        if mask is not None:
            share = tf.reduce_mean(mask)
            x, targets = mixed(x, mask), mixed(targets, share)
            soft = None if soft is None else mixed(soft, share)
        with tf.GradientTape() as tape:
            logits, feature_loss = self._logits_and_feature_loss(x)
            loss = self._objective.loss(logits, targets, soft) + feature_loss
        self._descend(tape, loss)
        return loss, tf.reduce_sum(tf.cast(tf.equal(tf.argmax(logits, axis=-1), classes), tf.int32))

    def _descend(self, tape: Any, loss: Any) -> None:
        groups = [network.trainable_variables for network, _ in self._groups]
        gradients = tf.nest.flatten(tape.gradient(loss, groups))
        clipped = iter(tf.clip_by_global_norm(gradients, self._config.clip_norm)[0])
        for optimizer, group in zip(self._optimizers, groups, strict=True):
            optimizer.apply_gradients([(next(clipped), variable) for variable in group])
        if self._config.averaging:
            decay = self._is_averaging * self._decay()
            self._steps.assign_add(self._is_averaging)
            for average, variable in zip(self._average, self._variables, strict=True):
                average.assign(decay * average + (1 - decay) * variable)

    def _decay(self) -> Any:
        if self._config.averaging == 1:
            return self._steps / (1 + self._steps)
        return tf.minimum(self._config.averaging, (1 + self._steps) / (10 + self._steps))

    def _logits_and_feature_loss(self, x: Any) -> tuple[Any, Any]:
        """Logits, and the loss of the descriptors."""
        if self._pooled is None:
            return self._forward(x, training=True), 0.0
        own, teacher = self._pooled
        logits, descriptor = own(x, training=True)
        return logits, self._config.pooled_weight * similarity_loss(descriptor, teacher(x, training=False)[1])

    def _forward(self, x: Any, *, training: bool) -> Any:
        if self._backbone is not None:
            x = self._backbone(x, training)
        return self._head(x, training=training)

    def _validate(self, validation: Examples) -> tuple[float, float]:
        current = self._weights()
        self._assign(self._kept_weights())
        logits = run_through(self._logits, validation.inputs, lambda rows: None)
        self._assign(current)
        log_probabilities = _log_softmax(logits)
        if validation.teacher is None:
            loss = -np.mean(log_probabilities[np.arange(len(logits)), validation.classes])
        else:
            soft = _log_softmax(validation.teacher)
            loss = np.mean(np.sum(np.exp(soft) * (soft - log_probabilities), axis=1))
        return float(loss), float(np.mean(logits.argmax(axis=1) == validation.classes))

    def _weights(self) -> list[NDArray[Any]]:
        return [variable.numpy() for variable in self._variables]

    def _kept_weights(self) -> list[NDArray[Any]]:
        """The weights that are validated and kept."""
        return [average.numpy() for average in self._average] if self._config.averaging else self._weights()

    def _assign(self, values: list[NDArray[Any]]) -> None:
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)

    def _slots(self) -> list[Any]:
        of_average = [*self._average, self._steps] if self._config.averaging else []
        return [*(variable for optimizer in self._optimizers for variable in optimizer.variables), *of_average]

    def _save(self, checkpoint: Path, progress: _Progress, best: list[NDArray[Any]]) -> None:
        arrays = {f"current_{i}": value for i, value in enumerate(self._weights())}
        arrays |= {f"best_{i}": value for i, value in enumerate(best)}
        arrays |= {f"slot_{i}": variable.numpy() for i, variable in enumerate(self._slots())}
        with replacing_file(checkpoint) as part:
            np.savez(part, progress=np.array(json.dumps(asdict(progress))), **arrays)  # type: ignore[arg-type]

    def _restore(self, checkpoint: Path) -> tuple[_Progress, list[NDArray[Any]]]:
        if not checkpoint.exists():
            return _Progress(), self._weights()
        try:
            with open_file(checkpoint) as file:
                saved = ArrayFile(file, max_bytes=checkpoint.stat().st_size)  # its arrays are not compressed
                current, best = (
                    [saved.read(f"{kind}_{i}") for i in range(len(self._variables))] for kind in ("current", "best")
                )
                slots = [saved.read(f"slot_{i}") for i in range(len(self._slots()))]
                progress = _Progress(**json_of(str(saved.read("progress")).encode(), allow_nan=True))
            for slot, value in zip(self._slots(), slots, strict=True):
                slot.assign(value)
            self._assign(current)
            return progress, best
        except (OSError, ValueError, TypeError) as error:
            raise RunError(
                f"{checkpoint} cannot be read or does not fit: remove it, and --resume begins this stage anew"
            ) from error


def _log_softmax(logits: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))


def _maps_of(backbone: Any, batch_statistics: bool) -> Callable[[Any, bool], Any]:
    """From a backbone's inputs, and whether it is to learn from them, to feature maps."""
    if batch_statistics:
        _forget_sooner(backbone)
        return lambda x, training: backbone(x, training=training)
    folded = normalization_folded(backbone)
    return lambda x, training: folded(x)


def _forget_sooner(backbone: Any) -> None:
    """Published backbones average over a thousand batches; a shorter stage would be validated with old statistics."""
    for layer in backbone.submodules:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = min(layer.momentum, BATCH_MOMENTUM)


def _optimizer(config: TrainConfig, stage: StageConfig, network: Any) -> Any:
    if stage.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(learning_rate=0.0, momentum=config.momentum, nesterov=config.momentum > 0)
    elif stage.optimizer == "adam":
        optimizer = keras.optimizers.Adam(learning_rate=0.0)
    else:
        optimizer = keras.optimizers.AdamW(learning_rate=0.0, weight_decay=config.weight_decay)
        # Decay pulls kernels towards zero; biases and normalization have no business there.
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    optimizer.build(network.trainable_variables)
    return optimizer


def epoch_order(
    train: Examples, config: TrainConfig, stage: str, epoch: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Batches of (rows of `inputs`, photo indexes): every photo once, each in the next of its copies."""
    count = len(train.classes)
    first_copy = np.random.default_rng((config.seed, *stage.encode())).integers(train.copies, size=count)
    photos = np.random.default_rng((config.seed, epoch, *stage.encode())).permutation(count)
    rows = (first_copy[photos] + epoch) % train.copies * count + photos
    batches = max(1, round(count / config.batch_size))
    return list(zip(np.array_split(rows, batches), np.array_split(photos, batches), strict=True))


def _reader(train: Examples) -> Callable[[tuple[NDArray[np.int64], NDArray[np.int64]]], tuple[Any, Any, Any]]:
    def read(batch: tuple[NDArray[np.int64], NDArray[np.int64]]) -> tuple[Any, Any, Any]:
        rows, photos = batch
        teacher = None if train.teacher is None else tf.constant(train.teacher[rows])
        return tf.constant(train.inputs[rows]), tf.constant(train.classes[photos]), teacher

    return read
