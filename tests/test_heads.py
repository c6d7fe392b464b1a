"""Every pooling with every tail: it builds, learns, comes back from a file, folds, converts, and says what it lacks."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from click import Choice, Option
from numpy.typing import NDArray
from pydantic import ValidationError

from edgebcnn.bundle import Precision
from edgebcnn.cli.train import command
from edgebcnn.device.runtime import load_runtime
from edgebcnn.errors import TrainingError
from edgebcnn.model import heads
from edgebcnn.model.backbones import BACKBONES
from edgebcnn.model.bcnn import Architecture, Bcnn, build, folded
from edgebcnn.model.head import Tail
from edgebcnn.model.keras import keras
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.quantize.inspect.audit import audit
from edgebcnn.quantize.tflite.convert import float_file, int8_source
from edgebcnn.train.config import TrainConfig
from edgebcnn.train.run_folder import architecture

CLASSES = 4
PREPROCESSING = Preprocessing(height_px=64, width_px=64)
PAIRS: list[tuple[str, Tail]] = [(pooling, tail) for pooling in heads.names() for tail in heads.find(pooling).tails]
ALL_INTEGER: list[tuple[str, Tail]] = [
    ("hadamard", "tanh"),
    ("quadratic", "tanh"),
    ("projected", "tanh"),
    ("lrbc", "none"),
    ("maclaurin", "tanh"),
    ("gap", "none"),
]

every_head = pytest.mark.parametrize(
    ("pooling", "tail"),
    [
        pytest.param(pooling, tail, marks=[] if tail == heads.find(pooling).tails[0] else [pytest.mark.slow])
        for pooling, tail in PAIRS
    ],
    ids=["-".join(pair) for pair in PAIRS],
)


def shape(pooling: str, tail: Tail, **changes: Any) -> Architecture:
    rank = None if heads.find(pooling).rank is None else 16
    choices = {"streams": "small", "pooling": pooling, "rank": rank, "tail": tail, "class_rank": 4, "classes": CLASSES}
    return Architecture(**{**choices, **changes})


@cache
def photos() -> NDArray[np.uint8]:
    """`(16, 64, 64, 3)`: blocks, in a colour cast for each class."""
    rng = np.random.default_rng(5)
    blocks = rng.integers(0, 120, (16, 8, 8, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    casts = np.array([(0, 0, 0), (120, 0, 0), (0, 120, 0), (0, 0, 120)], np.uint8)
    return np.asarray(blocks + casts[np.arange(16) % CLASSES][:, np.newaxis, np.newaxis], np.uint8)


def pictures() -> NDArray[np.float32]:
    """The photos as a network takes them."""
    return PREPROCESSING.normalize(photos())


@cache
def trained(pooling: str, tail: Tail) -> tuple[Bcnn, list[float]]:
    """A model that has learned the photos, and the loss of each epoch."""
    keras.utils.set_random_seed(1)
    bcnn = build(shape(pooling, tail, dropout=0.0))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    bcnn.model.compile(keras.optimizers.Adam(2e-3), loss)
    fitted = bcnn.model.fit(pictures(), np.arange(16) % CLASSES, epochs=25, batch_size=8, verbose=0)
    return bcnn, fitted.history["loss"]


@every_head
def test_a_head_learns_and_comes_back_from_its_weights_and_folds_with_equal_outputs(
    pooling: str, tail: Tail, tmp_path: Path
) -> None:
    bcnn, losses = trained(pooling, tail)
    assert losses[-1] < 0.5 * losses[0]
    logits = bcnn.model(pictures(), training=False)

    bcnn.model.save_weights(str(tmp_path / "weights.h5"), save_format="h5")
    again = build(shape(pooling, tail, seed=99))
    again.model.load_weights(str(tmp_path / "weights.h5"))
    np.testing.assert_array_equal(again.model(pictures(), training=False), logits, "what was drawn is saved, too")

    bcnn.model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(pictures(), training=False), logits)

    exported = folded(bcnn, height_px=64, width_px=64)
    np.testing.assert_allclose(exported(pictures()), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pooling", ["maclaurin", "tensor_sketch"])
def test_what_is_drawn_is_drawn_from_the_seed_and_never_trained(pooling: str) -> None:
    def drawn(bcnn: Bcnn) -> list[NDArray[Any]]:
        return [weight.numpy() for weight in bcnn.head.non_trainable_weights if "tail_BN" not in weight.name]

    first, again, other = (drawn(build(shape(pooling, "tanh", seed=seed))) for seed in (0, 0, 1))
    learned, _ = trained(pooling, "tanh")
    assert len(first) == 2
    for mine, same, different, fitted in zip(first, again, other, drawn(learned), strict=True):
        np.testing.assert_array_equal(mine, same)
        np.testing.assert_array_equal(mine, fitted)
        assert (mine != different).any()


def test_a_head_has_as_many_parameters_as_a_hand_count() -> None:
    m, d, r, k = 128, 16, 4, CLASSES  # channels of `small`, rank, class rank, products
    counts = {
        pooling: build(shape(pooling, heads.find(pooling).tails[0])).head.count_params() for pooling in heads.names()
    }
    classifier, normalization = (d + 1) * k, 4 * d
    assert counts == {
        "outer": (m**2 + 1) * k,
        "hadamard": 2 * m * d + normalization + classifier,
        "quadratic": m * d + normalization + classifier,
        "projected": 2 * m * d + 4 * d**2 + (d**2 + 1) * k,
        "lrbc": m * d + d * k * r + k,
        "maclaurin": 2 * m * d + normalization + classifier,
        "tensor_sketch": 2 * m + normalization + classifier,
        "gap": (m + 1) * k,
    }


@pytest.mark.parametrize(("pooling", "tail"), PAIRS[1:])
def test_a_fresh_compact_head_gives_logits_of_order_one(pooling: str, tail: Tail, rng: np.random.Generator) -> None:
    keras.utils.set_random_seed(2)
    rank = None if heads.find(pooling).rank is None else 64
    head = build(shape(pooling, tail, rank=rank, classes=20)).head
    maps = rng.standard_normal((64, 1, 1, 128)).astype(np.float32)  # one location: nothing is averaged away
    assert 0.3 < np.std(head(maps, training=True)) < 4


@pytest.mark.parametrize(("pooling", "tail"), ALL_INTEGER)
def test_int8_is_integer_throughout_taken_by_xnnpack_and_follows_the_float_model(
    pooling: str, tail: Tail, tmp_path: Path
) -> None:
    bcnn, _ = trained(pooling, tail)
    model = folded(bcnn, height_px=64, width_px=64)
    content = int8_source(model, preprocessing=PREPROCESSING).quantized(photos()).content
    found = audit(content)
    assert found.integer_only, found.summary()
    if pooling == "lrbc":
        assert [op.name for op in found.ops][-7:-2] == ["CONV_2D", "CONV_2D", "MUL", "MEAN", "FULLY_CONNECTED"]
    (tmp_path / "model.tflite").write_bytes(content)
    left = Counter(load_runtime(tmp_path / "model.tflite", threads=1).left)
    of_head = {"BATCH_MATMUL": 1} if pooling == "projected" else {}
    # From and to uint8, and the softmax, of which XNNPACK has none in int8.
    assert left == {"QUANTIZE": 2, "SOFTMAX": 1, **of_head}
    assert probabilities(bcnn).max(axis=1).mean() > 0.7, "an undecided model would follow anything"
    # Photos that the model knows are not near a tie, where a step of a logit is many steps of a probability.
    np.testing.assert_allclose(run(content, photos()) / 256, probabilities(bcnn), atol=0.1)


@pytest.mark.parametrize("precision", ["fp16", "float32"])
def test_tensor_sketch_runs_in_float_tflite(precision: Precision) -> None:
    bcnn, _ = trained("tensor_sketch", "tanh")
    content = float_file(folded(bcnn, height_px=64, width_px=64), precision, preprocessing=PREPROCESSING)
    np.testing.assert_allclose(run(content, pictures()), probabilities(bcnn), atol=1e-3)


def probabilities(bcnn: Bcnn) -> NDArray[np.float32]:
    """What the Keras model says of the photos."""
    return np.asarray(keras.activations.softmax(bcnn.model(pictures(), training=False)))


def run(content: bytes, images: NDArray[Any]) -> NDArray[Any]:
    """Raw outputs of a model file, one image at a time."""
    runner = Interpreter(model_content=content).get_signature_runner()
    return np.concatenate([runner(image=image[np.newaxis])["probabilities"] for image in images])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pooling": "gap", "rank": 8}, "gap pooling has no rank"),
        ({"pooling": "lrbc", "tail": "tanh"}, "lrbc pooling takes no tanh tail"),
        ({"pooling": "outer", "tail": "tanh"}, "outer pooling takes no tanh tail"),
        ({"pooling": "hadamard", "rank": None}, "hadamard pooling needs a rank"),
        ({"pooling": "tensor_sketch", "rank": 100}, "a power of two, as the FFT of TFLite does, not 100"),
        ({"pooling": "tensor_sketch", "rank": 1}, "a power of two"),
        ({"pooling": "quadratic", "rank": 7}, "quadratic takes an even rank, .* not 7"),
        ({"pooling": "lrbc", "class_rank": 3}, "multiple of 2"),
    ],
)
def test_a_head_that_does_not_exist_is_refused(changes: dict[str, Any], sentence: str) -> None:
    pooling: str = changes["pooling"]
    with pytest.raises(ValidationError, match=sentence):
        shape(**{"tail": heads.find(pooling).tails[0], **changes})


@pytest.mark.parametrize(
    ("pooling", "rank", "most"), [("lrbc", 129, 128), ("projected", 129, 128), ("hadamard", 16385, 16384)]
)
def test_a_rank_above_what_the_channels_allow_is_refused(pooling: str, rank: int, most: int) -> None:
    with pytest.raises(TrainingError, match=f"rank of {rank} is too large: .* takes at most {most}"):
        build(shape(pooling, heads.find(pooling).tails[0], rank=rank))


@pytest.mark.parametrize("pooling", heads.compact_names())
def test_a_run_gives_its_compact_model_the_chosen_head_with_its_own_rank_and_tail(pooling: str) -> None:
    config = TrainConfig(data="unused", pooling=pooling, class_rank=6, seed=7)
    compact = architecture(config, 5, "compact")
    own = heads.find(pooling)
    assert (compact.pooling, compact.rank, compact.tail) == (pooling, own.rank, own.tails[0])
    assert (compact.class_rank, compact.seed) == (6, 7)
    assert architecture(config, 5, "full").pooling == "outer"


def test_the_command_line_offers_every_compact_pooling() -> None:
    (flag,) = (parameter for parameter in command.params if parameter.name == "pooling")
    assert isinstance(flag.type, Choice)
    assert tuple(flag.type.choices) == heads.compact_names()


def test_the_command_line_names_every_backbone() -> None:
    (flag,) = (parameter for parameter in command.params if parameter.name == "streams")
    assert isinstance(flag, Option)
    assert flag.help is not None
    assert not [name for name in BACKBONES if f"{name}," not in flag.help]
