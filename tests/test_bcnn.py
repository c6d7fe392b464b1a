"""The full and compact models: shapes, parts that share weights, folding, and weights that Keras 3 can read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from edgebcnn.errors import TrainingError
from edgebcnn.model.backbones import backbone
from edgebcnn.model.bcnn import Architecture, Bcnn, build, folded
from edgebcnn.model.keras import keras
from edgebcnn.train.inference import inference

FULL = Architecture(streams="small", pooling="outer", tail="sqrt", classes=5)
COMPACT = Architecture(streams="small", pooling="hadamard", rank=24, tail="tanh", classes=5)


@pytest.fixture
def pictures(rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.uniform(-1, 1, (3, 64, 64, 3)).astype(np.float32)


def trained(architecture: Architecture, pictures: NDArray[np.float32]) -> Bcnn:
    """A model whose batch statistics and biases are not the initial ones."""
    keras.utils.set_random_seed(0)
    bcnn = build(architecture)
    bcnn.model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    bcnn.model.fit(pictures, np.arange(len(pictures)), epochs=5, verbose=0)
    return bcnn


@pytest.mark.parametrize("architecture", [FULL, COMPACT], ids=["full", "compact"])
def test_the_parts_chained_are_the_whole_model(architecture: Architecture, pictures: NDArray[np.float32]) -> None:
    bcnn = build(architecture, frozen_through="small_2_relu")
    chained = bcnn.head(bcnn.suffix(bcnn.prefix(pictures)))  # type: ignore[misc]
    np.testing.assert_allclose(chained, bcnn.model(pictures), rtol=1e-5, atol=1e-6)
    assert len(bcnn.prefix.weights) + len(bcnn.suffix.weights) + len(bcnn.head.weights) == len(bcnn.model.weights)  # type: ignore[union-attr]


def test_full_head_has_one_weight_per_channel_pair_and_product_and_the_compact_one_far_fewer() -> None:
    channels = 128
    assert build(FULL).head.count_params() == (channels**2 + 1) * 5
    assert build(COMPACT).head.count_params() == 2 * channels * 24 + 4 * 24 + (24 + 1) * 5


@pytest.mark.parametrize("tail", ["tanh", "sqrt"])
def test_folding_changes_nothing_but_rounding(tail: str, pictures: NDArray[np.float32]) -> None:
    bcnn = trained(COMPACT.model_copy(update={"tail": tail}), pictures)
    model = folded(bcnn, height_px=64, width_px=64)
    np.testing.assert_allclose(model(pictures), bcnn.model(pictures, training=False), rtol=1e-4, atol=1e-5)
    assert not any(layer.name == "tail_BN" and "Norm" in type(layer).__name__ for layer in model.layers)


def test_a_model_built_for_any_size_equals_one_built_for_that_size(pictures: NDArray[np.float32]) -> None:
    keras.utils.set_random_seed(0)
    bcnn = build(Architecture(streams="mobilenet_v2", pooling="hadamard", rank=8, tail="tanh", classes=3))
    fixed = folded(bcnn, height_px=64, width_px=64)
    np.testing.assert_allclose(fixed(pictures), bcnn.model(pictures), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_keras_3_loads_our_weights_and_computes_the_same(tmp_path: Path, pictures: NDArray[np.float32]) -> None:
    bcnn = trained(COMPACT, pictures)
    bcnn.model.save_weights(str(tmp_path / "weights.h5"), save_format="h5")
    np.save(tmp_path / "pictures.npy", pictures)
    np.save(tmp_path / "logits.npy", bcnn.model(pictures, training=False))
    script = Path(__file__).with_name("keras3_reader.py")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_unknown_backbone_is_answered_with_the_closest() -> None:
    with pytest.raises(TrainingError, match="unknown backbone 'mobilenet': did you mean mobilenet_v2"):
        backbone("mobilenet")


def test_an_unknown_layer_to_freeze_is_answered_with_the_closest() -> None:
    with pytest.raises(TrainingError, match="small has no layer 'small_2_rel'; closest: small_2_relu"):
        build(FULL, frozen_through="small_2_rel")


def test_a_layer_like_no_other_is_answered_with_names_all_the_same() -> None:
    with pytest.raises(TrainingError, match=r"no layer 'xyz'; closest: small_\w+, small_\w+, small_\w+$"):
        build(FULL, frozen_through="xyz")


@pytest.mark.parametrize(
    ("network", "layer"),
    [("mobilenet_v2", "block_2_expand"), ("mobilenet_v2", "out_relu"), ("small", "small_5_relu")],
    ids=["inside a block", "behind the feature map", "at its end"],
)
def test_a_layer_at_which_the_network_cannot_be_cut_is_refused(network: str, layer: str) -> None:
    with pytest.raises(
        TrainingError,
        match=f"{network} cannot be cut in two at {layer}, .*: use .*before {backbone(network).last_layer}",
    ):
        build(FULL.model_copy(update={"streams": network}), frozen_through=layer)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    keras.Sequential([keras.layers.Dense(2, input_shape=(3,))]).save_weights(str(tmp_path / "other.h5"))
    with pytest.raises(TrainingError, match="does not hold weights of mobilenet_v2"):
        build(FULL.model_copy(update={"streams": "mobilenet_v2"}), weights=str(tmp_path / "other.h5"))


def test_a_missing_weights_file_is_named() -> None:
    with pytest.raises(TrainingError, match=r"no weights file at nowhere\.h5"):
        build(FULL, weights="nowhere.h5")


def test_imagenet_weights_that_cannot_be_had_name_the_other_two_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match=r"no ImageNet weights for small: use --weights none or --weights FILE"):
        build(FULL, weights="imagenet")

    def no_network(**_: object) -> None:
        raise Exception("URL fetch failure")  # what Keras raises

    monkeypatch.setattr(keras.applications, "MobileNetV2", _failing_download(no_network))
    with pytest.raises(TrainingError, match=r"cannot be downloaded .*--weights FILE.*--weights none"):
        build(FULL.model_copy(update={"streams": "mobilenet_v2"}), weights="imagenet")


def _failing_download(no_network: object) -> object:
    original = keras.applications.MobileNetV2

    def mobilenet_v2(**arguments: object) -> object:
        return no_network() if arguments["weights"] == "imagenet" else original(**arguments)  # type: ignore[operator]

    return mobilenet_v2


def test_an_outer_product_with_a_rank_is_refused() -> None:
    with pytest.raises(ValidationError, match="outer pooling has no rank"):
        Architecture(streams="small", pooling="outer", rank=8, tail="sqrt", classes=5)


def test_inference_gives_every_row_its_own_answer_however_few_go_through_at_once() -> None:
    network = build(COMPACT).model
    pictures = np.random.default_rng(0).integers(0, 256, (9, 384, 384, 3), np.uint8)
    alone = network(pictures.astype(np.float32) / 127.5 - 1, training=False).numpy()
    np.testing.assert_allclose(inference(network)(pictures), alone, rtol=0, atol=1e-4 * np.abs(alone).max())
