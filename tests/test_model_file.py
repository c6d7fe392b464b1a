"""A Keras model of the user's own as a stream: opened without running what it holds, at any size, and trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.errors import TrainingError
from edgebcnn.model.bcnn import Architecture, Bcnn, build, folded
from edgebcnn.model.keras import keras
from edgebcnn.train.run_folder import open_run, read_weights, write_weights
from tests.blocks import QUICK, draw_blocks
from tests.typing_in import typed

pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")

layers = keras.layers


def saved(model: Any, file: Path) -> str:
    model.save(file)
    return str(file)


def own_model() -> Any:
    """Two convolutions, and a classifier that fits one size alone."""
    keras.utils.set_random_seed(4)
    return keras.Sequential(
        [
            keras.Input((48, 48, 3), name="picture"),
            layers.Conv2D(8, 3, padding="same", name="first"),
            layers.BatchNormalization(name="normalization"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(12, 3, padding="same", activation="relu", name="second"),
            layers.Flatten(name="flat"),
            layers.Dense(2, name="scores"),
        ]
    )


def built(streams: str, *, weights: str = "imagenet", **choices: Any) -> Bcnn:
    architecture = Architecture(streams=streams, pooling="hadamard", rank=8, tail="tanh", classes=3)
    return build(architecture, weights=weights, **choices)


@pytest.fixture
def pixels(rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.integers(0, 256, (2, 48, 48, 3)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize(
    ("pixel_format", "seen"),
    [
        ("", lambda pixels: pixels / 127.5 - 1),
        (":unit", lambda pixels: pixels / 255),
        (":raw", lambda pixels: pixels),
        (":caffe", lambda pixels: pixels[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)),
        (":torch", lambda pixels: (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
    ],
)
def test_a_layer_of_ones_own_model_gives_what_it_gave_there(
    suffix: str, pixel_format: str, seen: Any, pixels: NDArray[np.float32], tmp_path: Path
) -> None:
    model = own_model()
    stream = saved(model, tmp_path / f"own.{suffix}") + ":second" + pixel_format
    expected = keras.Model(model.input, model.get_layer("second").output)(seen(pixels).astype(np.float32))
    np.testing.assert_allclose(built(stream).suffix(pixels / 127.5 - 1), expected, rtol=1e-4, atol=2e-4)


def test_it_takes_pictures_of_any_size_and_is_cut_aligned_folded_and_kept(
    pixels: NDArray[np.float32], tmp_path: Path
) -> None:
    streams = saved(own_model(), tmp_path / "own.keras") + ":second:raw,small"
    pictures = np.tile(pixels, (1, 2, 2, 1)) / 127.5 - 1
    bcnn = built(streams, weights="imagenet,none", frozen_through="pool,small_1_relu")
    assert bcnn.prefix is not None
    logits = bcnn.model(pictures)
    np.testing.assert_allclose(bcnn.head(bcnn.suffix(bcnn.prefix(pictures))), logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(folded(bcnn, height_px=96, width_px=96)(pictures), logits, rtol=1e-4, atol=1e-5)
    write_weights(tmp_path, "compact", bcnn)
    again = built(streams, weights="none")
    read_weights(tmp_path, "compact", again)
    np.testing.assert_array_equal(again.model(pictures), logits)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_model_in_the_model_is_a_layer_like_others_and_all_of_it_is_trained(
    suffix: str, pixels: NDArray[np.float32], tmp_path: Path
) -> None:
    inputs = keras.Input((32, 32, 3))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, 4, padding="same")(inputs))
    base = keras.Model(inputs, layers.BatchNormalization()(layers.Conv2D(6, 3, 4, padding="same")(x)), name="base")
    base.trainable = False
    model = keras.Sequential([base, layers.GlobalAveragePooling2D(), layers.Dense(3)])
    streams = f"{saved(model, tmp_path / f'own.{suffix}')}:{base.name},small"
    bcnn = built(streams, weights="imagenet,none")
    expected = base(pixels[:, :32, :32] / 127.5 - 1)
    nested = keras.Model(bcnn.model.input, bcnn.model.get_layer(f"a_{base.name}").get_output_at(-1))
    np.testing.assert_allclose(nested(pixels[:, :32, :32] / 127.5 - 1), expected, rtol=1e-4, atol=1e-5)
    assert len(bcnn.suffix.trainable_weights) == 2 * (2 + 2) + 15
    write_weights(tmp_path, "compact", bcnn)
    again = built(streams, weights="none")
    read_weights(tmp_path, "compact", again)
    np.testing.assert_array_equal(again.model(pixels), bcnn.model(pixels))


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_lambda_layer_is_refused_before_it_is_made(suffix: str, tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    written = str(witness)

    def run(x: Any) -> Any:
        with open(written, "w") as file:
            file.write("it ran")
        return x

    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Lambda(run), layers.Conv2D(3, 3, name="last")])
    file = saved(model, tmp_path / f"own.{suffix}")
    witness.unlink()
    with pytest.raises(TrainingError, match="holds a Lambda layer, which can run any code"):
        built(f"{file}:last")
    assert not witness.exists()


def test_classes_from_elsewhere_and_operators_beyond_arithmetic_are_refused(tmp_path: Path) -> None:
    import h5py

    file = saved(own_model(), tmp_path / "own.h5")
    with h5py.File(file, "r+") as archive:
        original = json.loads(archive.attrs["model_config"])
        for change, sentence in (
            ({"class_name": "Popen", "module": "subprocess"}, "needs Popen of subprocess"),
            ({"class_name": "TFOpLambda", "config": {"function": "io.write_file"}}, "holds a TFOpLambda layer"),
        ):
            archive.attrs["model_config"] = json.dumps({**original, "config": [change]})
            archive.flush()
            with pytest.raises(TrainingError, match=sentence):
                built(f"{file}:second")


def test_what_cannot_be_a_stream_is_answered_in_one_sentence(tmp_path: Path) -> None:
    file = saved(own_model(), tmp_path / "own.keras")
    numbers = saved(keras.Sequential([layers.Dense(2, input_shape=(3,), name="d")]), tmp_path / "numbers.keras")
    inputs = keras.Input((16, 16, 3))
    uneven = saved(keras.Model(inputs, layers.Conv2D(4, 3, name="c")(inputs)), tmp_path / "uneven.keras")
    rigid = layers.Reshape((16, 16, 3), name="same")(layers.Flatten()(inputs))
    rigid = saved(keras.Model(inputs, layers.Conv2D(4, 3, name="c")(rigid)), tmp_path / "rigid.keras")
    (tmp_path / "broken.keras").write_bytes(b"PK")
    own_model().save_weights(str(tmp_path / "weights.h5"))
    for stream, sentence in (
        (file, r"own\.keras is a model file, .*: give .*own\.keras:LAYER"),
        (f"{file}:secnd", "has no layer 'secnd'; closest: second"),
        (f"{file}:scores", r"layer scores of .* gives \(None, 2\) and no feature map"),
        (f"{file}:second:bgr", "unknown pixels 'bgr' .* one of tf, torch, caffe, unit, raw"),
        (f"{numbers}:d", "does not take images"),
        (f"{rigid}:c", "of one size only"),
        (f"{uneven}:c,small", "cannot be aligned, with 254×254 and 32×32 locations at 256 px"),
        (f"{tmp_path / 'nowhere.keras'}:c", "no Keras model at"),
        (f"{tmp_path / 'broken.keras'}:c", "cannot be opened as a whole Keras model"),
        (f"{tmp_path / 'weights.h5'}:c", "cannot be opened as a whole Keras model .it holds weights alone."),
    ):
        with pytest.raises(TrainingError, match=sentence) as refusal:
            built(stream, weights="none")
        assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_two_different_streams_are_trained_from_their_frozen_layers_on_and_exported(tmp_path: Path) -> None:
    draw_blocks(tmp_path / "data", per_product={"train": 24, "val": 8, "test": 12})
    saved(own_model(), tmp_path / "own.keras")
    streams = ("--streams", "own.keras:second:raw,own.keras:first", "--weights", "imagenet")
    result = typed(tmp_path, "train", *QUICK, *streams, "--frozen-through", "pool,none")
    assert result.exit_code == 0, result.stderr
    sentence = "is averaged over 2×2 locations to the grid of stream A"
    assert sentence in " ".join(result.stderr.split())
    record = json.loads((tmp_path / "runs" / "latest" / "run.json").read_text())
    assert sentence in record["alignment"]
    assert record["config"]["streams"] == f"{tmp_path}/own.keras:second:raw,{tmp_path}/own.keras:first"
    full = open_run(tmp_path / "runs" / "latest").load("full")
    assert full.head.count_params() == (12 * 8 + 1) * 3
    original = own_model().get_layer("first").get_weights()[0]
    np.testing.assert_array_equal(full.model.get_layer("a_first").get_weights()[0], original)
    assert (full.model.get_layer("b_first").get_weights()[0] != original).any()
    result = typed(tmp_path, "export", "--int8")
    assert result.exit_code == 0, result.stderr
    assert "all integer" in result.stdout
