"""Defines the loss of a training step: targets, mixing of examples, and the distillation losses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.model.keras import tf
from edgebcnn.train.config import TrainConfig


def draw_mask(config: TrainConfig, size_hw: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32] | None:
    """How much of each example a batch keeps for itself; the rest comes from its partner, the batch read backwards.

    Mixup blends evenly, with a share λ ~ Beta(α, α) (Zhang et al. 2018, arXiv 1710.09412); CutMix replaces a box of
    area 1 - λ at a random place (Yun et al. 2019, arXiv 1905.04899). Either works on cached features as on images,
    since the frozen layers keep places (Verma et al. 2019, arXiv 1806.05236). The larger part is always the example's
    own.

    Args:
        config: `mixup` and `cutmix` are the α of each; where both are above 0, either is as likely.
        size_hw: Height and width of the examples.
        rng: Where the randomness comes from.

    Returns:
        `(h, w, 1)` float32 in [0, 1], or None where nothing is mixed.
    """
    kinds = [(alpha, kind) for alpha, kind in ((config.mixup, _blend), (config.cutmix, _cut)) if alpha > 0]
    if not kinds:
        return None
    alpha, kind = kinds[rng.integers(len(kinds))]
    share = rng.beta(alpha, alpha)
    return kind(max(share, 1 - share), size_hw, rng)


def mixed(values: Any, kept: Any) -> Any:
    """`kept·v_i + (1 - kept)·v_(n-1-i)` for each example i of a batch of n."""
    return kept * values + (1 - kept) * tf.reverse(values, axis=[0])


class Objective:
    """Cross-entropy with smoothed and balanced labels; with a teacher, partly the divergence from its predictions.

    With share s and temperature T the loss is (1 - s)·CE + s·T²·KL(teacher/T ‖ student/T) (Hinton et al. 2015,
    arXiv 1503.02531).

    Args:
        config: The run's choices.
        counts: `(k,)` photos of each product in train.
    """

    def __init__(self, config: TrainConfig, counts: NDArray[np.int64]) -> None:
        self._smoothing = config.label_smoothing
        self._share, self._temperature = config.distil_share, config.temperature
        weights = np.maximum(counts, 1.0) ** -config.balance
        # A photo weighs one on average, so that learning rates mean the same with every balance.
        self._weights = tf.constant(weights * counts.sum() / (weights * counts).sum(), tf.float32)

    def targets(self, classes: Any) -> Any:
        """`(n, k)` smoothed labels, weighted by product; zeros for a class of -1, which only has a teacher."""
        classes_count = len(self._weights)
        smoothed = tf.one_hot(classes, classes_count) * (1 - self._smoothing) + self._smoothing / classes_count
        weights = tf.gather(self._weights, tf.maximum(classes, 0)) * tf.cast(classes >= 0, tf.float32)
        return smoothed * weights[:, tf.newaxis]

    def soft_targets(self, teacher: Any) -> Any:
        """`(n, k)` softened probabilities of a teacher's logits."""
        return tf.nn.softmax(tf.cast(teacher, tf.float32) / self._temperature)

    def loss(self, logits: Any, targets: Any, soft: Any | None) -> Any:
        """Mean loss of a batch.

        Args:
            logits: `(n, k)` of the student.
            targets: From `targets`, perhaps mixed.
            soft: From `soft_targets`, perhaps mixed; or None.
        """
        loss = -tf.reduce_mean(tf.reduce_sum(targets * tf.nn.log_softmax(logits), axis=-1))
        if soft is None:
            return loss
        gap = tf.math.xlogy(soft, soft) - soft * tf.nn.log_softmax(logits / self._temperature)
        divergence = tf.reduce_mean(tf.reduce_sum(gap, axis=-1))
        return (1 - self._share) * loss + self._share * self._temperature**2 * divergence


def similarity_loss(student: Any, teacher: Any) -> Any:
    """Feature-similarity distillation loss, for descriptors of any two sizes.

    The mean over all pairs of a batch of (cos(zᵢ, zⱼ) - cos(tᵢ, tⱼ))²: similarity-preserving distillation (Tung and
    Mori 2019, arXiv 1907.09682), with cosines in place of rows of unit length.

    Args:
        student: `(n, d)` descriptors z of the student.
        teacher: `(n, D)` descriptors t of the teacher.
    """
    similarities = [tf.matmul(unit, unit, transpose_b=True) for unit in (_unit(student), _unit(teacher))]
    return tf.reduce_mean(tf.square(similarities[0] - similarities[1]))


def _unit(descriptors: Any) -> Any:
    return tf.math.l2_normalize(tf.cast(descriptors, tf.float32), axis=-1)


def _blend(share: float, size_hw: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    return np.full((*size_hw, 1), share, np.float32)


def _cut(share: float, size_hw: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    mask = np.ones((*size_hw, 1), np.float32)
    box_h, box_w = (round(side * np.sqrt(1 - share)) for side in size_hw)
    top, left = rng.integers(size_hw[0] - box_h + 1), rng.integers(size_hw[1] - box_w + 1)
    mask[top : top + box_h, left : left + box_w] = 0
    return mask
