"""What a training step brings down, against NumPy; and which examples are mixed how."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from edgebcnn.model.keras import tf
from edgebcnn.train.config import TrainConfig
from edgebcnn.train.objective import Objective, draw_mask, mixed, similarity_loss

CLASSES = np.array([0, 2, 2, 1])
COUNTS = np.array([40, 10, 2])
LOGITS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
TEACHER = 3 * np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)


def config(**choices: Any) -> TrainConfig:
    return TrainConfig(data="unused", streams="small", weights="none", **choices)


def loss(choices: TrainConfig, classes: Any = CLASSES, teacher: Any = None) -> float:
    objective = Objective(choices, COUNTS)
    taught = None if teacher is None else objective.soft_targets(teacher)
    return float(objective.loss(tf.constant(LOGITS), objective.targets(classes), taught))


def cross_entropies(smoothing: float) -> Any:
    labels = np.eye(3)[CLASSES] * (1 - smoothing) + smoothing / 3
    return -np.sum(labels * log_softmax(LOGITS, axis=1), axis=1)


def divergence(temperature: float) -> float:
    taught = softmax(TEACHER / temperature, axis=1)
    gap = taught * (log_softmax(TEACHER / temperature, axis=1) - log_softmax(LOGITS / temperature, axis=1))
    return float(temperature**2 * np.mean(np.sum(gap, axis=1)))


def test_without_a_teacher_it_is_the_cross_entropy_of_smoothed_labels() -> None:
    assert loss(config(label_smoothing=0.2)) == pytest.approx(np.mean(cross_entropies(0.2)), rel=1e-5)


def test_a_teacher_takes_its_share_of_the_loss() -> None:
    expected = 0.7 * np.mean(cross_entropies(0.1)) + 0.3 * divergence(4.0)
    assert loss(config(distil_share=0.3, temperature=4.0), teacher=TEACHER) == pytest.approx(expected, rel=1e-5)


def test_a_teacher_that_is_matched_leaves_nothing_to_bring_down() -> None:
    assert loss(config(distil_share=1.0), teacher=LOGITS) == pytest.approx(0, abs=1e-6)


def test_descriptors_that_find_the_same_photos_alike_are_not_unlike_whatever_their_size() -> None:
    rng = np.random.default_rng(2)
    own, taught = rng.standard_normal((5, 3)), rng.standard_normal((5, 40))
    cosines = [(each @ each.T) / np.outer(*[np.linalg.norm(each, axis=1)] * 2) for each in (own, taught)]
    assert float(similarity_loss(own, taught)) == pytest.approx(np.mean((cosines[0] - cosines[1]) ** 2), rel=1e-5)
    turned = 7 * own @ np.linalg.qr(rng.standard_normal((20, 3)))[0].T
    assert float(similarity_loss(own, turned)) == pytest.approx(0, abs=1e-12)


def test_of_a_photo_without_a_label_only_the_teacher_says_something() -> None:
    unknown = np.full(4, -1)
    assert loss(config(), classes=unknown) == 0
    assert loss(config(distil_share=0.5), classes=unknown, teacher=TEACHER) == pytest.approx(
        0.5 * divergence(2.0), rel=1e-5
    )


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_balance_weighs_rare_products_more_and_a_photo_one_on_average(balance: float) -> None:
    weights = COUNTS**-balance
    weights /= np.sum(weights * COUNTS) / np.sum(COUNTS)
    expected = np.mean(cross_entropies(0.1) * weights[CLASSES])
    assert loss(config(balance=balance)) == pytest.approx(expected, rel=1e-5)
    assert weights[2] > weights[1] > weights[0]


def test_mixing_keeps_a_share_of_each_example_and_takes_the_rest_from_its_partner() -> None:
    np.testing.assert_allclose(mixed(tf.constant([[1.0], [2.0], [5.0]]), 0.75), [[2.0], [2.0], [4.0]])


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_the_larger_part_of_a_mixed_example_is_its_own(kind: str) -> None:
    rng = np.random.default_rng(0)
    masks = [draw_mask(config(**{kind: 1.0}), (12, 20), rng) for _ in range(200)]
    for mask in masks:
        assert mask is not None
        assert mask.shape == (12, 20, 1)
        assert mask.mean() >= 0.5 - 0.05  # a box has whole cells
    shares = [mask.mean() for mask in masks if mask is not None]
    assert np.mean(shares) == pytest.approx(0.75, abs=0.05)  # the larger of λ and 1 - λ, λ even in [0, 1]


def test_mixup_is_even_and_cutmix_a_box() -> None:
    rng = np.random.default_rng(3)
    blend, cut = (draw_mask(config(**{kind: 1.0}), (16, 16), rng) for kind in ("mixup", "cutmix"))
    assert blend is not None
    assert cut is not None
    assert np.ptp(blend) == 0
    rows, columns = np.nonzero(cut[..., 0] == 0)
    assert set(np.unique(cut)) == {0, 1}
    assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_with_both_each_batch_draws_one_of_the_two_and_with_none_nothing_is_mixed() -> None:
    rng = np.random.default_rng(0)
    masks = [draw_mask(config(mixup=0.4, cutmix=1.0), (8, 8), rng) for _ in range(100)]
    boxes = sum(mask is not None and np.ptp(mask) == 1 for mask in masks)
    assert 20 < boxes < 70  # half of the draws, less those too small for a cell
    assert draw_mask(config(), (8, 8), rng) is None
