"""Two streams, equal or different: their maps, their pixels, their weights, their parts, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from edgebcnn.errors import TrainingError
from edgebcnn.model import heads
from edgebcnn.model.backbones import BACKBONES, backbone
from edgebcnn.model.bcnn import Architecture, Bcnn, build, folded, with_descriptor
from edgebcnn.model.keras import keras, tf
from edgebcnn.model.pixels import normalized
from edgebcnn.model.spelling import both, with_absolute_files
from edgebcnn.model.streams import PackMaps, UnpackMaps, frozen_layers
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.quantize.inspect.audit import audit
from edgebcnn.quantize.tflite.convert import int8_source
from edgebcnn.train.run_folder import read_weights, write_weights

CLASSES = 3
SIDE_PX = 64
TWO = "custom,small"
"""Maps of 64 and 128 channels, the first of them twice as fine."""

QUICK_BACKBONES = ("small", "custom", "vgg16", "efficientnet_lite0")
ALL_BACKBONES = [
    pytest.param(name, marks=[] if name in QUICK_BACKBONES else [pytest.mark.slow])
    for name in (*BACKBONES, "mobilenet_v2_0.35")
]


def shape(streams: str, pooling: str = "hadamard", **changes: Any) -> Architecture:
    rank = None if heads.find(pooling).rank is None else 16
    own = {"rank": rank, "tail": heads.find(pooling).tails[0], "class_rank": 4, "classes": CLASSES}
    return Architecture(**{**own, "streams": streams, "pooling": pooling, **changes})


@pytest.fixture
def pixels(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (4, SIDE_PX, SIDE_PX, 3), np.uint8)


@pytest.fixture
def pictures(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return Preprocessing(height_px=SIDE_PX, width_px=SIDE_PX).normalize(pixels)


def take_a_step(bcnn: Bcnn, pictures: NDArray[np.float32]) -> float:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Tracing the step would take ten times as long as this one step does.
    bcnn.model.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=True)
    return float(bcnn.model.train_on_batch(pictures, np.arange(len(pictures)) % CLASSES))


def outputs(bcnn: Bcnn, layer: str, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(keras.Model(bcnn.model.input, bcnn.model.get_layer(layer).output)(pictures))


def comes_back(architecture: Architecture, pictures: NDArray[np.float32], folder: Path) -> None:
    """Builds, takes a training step, saves, loads, folds, and compares."""
    bcnn = build(architecture)
    before = bcnn.model.get_weights()
    assert np.isfinite(take_a_step(bcnn, pictures))
    assert any((old != new).any() for old, new in zip(before, bcnn.model.get_weights(), strict=True))
    logits = bcnn.model(pictures, training=False)
    write_weights(folder, "compact", bcnn)
    again = build(architecture.model_copy(update={"seed": 9}))
    read_weights(folder, "compact", again)
    np.testing.assert_array_equal(again.model(pictures, training=False), logits)
    fixed = folded(bcnn, height_px=SIDE_PX, width_px=SIDE_PX)
    np.testing.assert_allclose(fixed(pictures), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pooling", heads.names())
@pytest.mark.parametrize("streams", ["custom", TWO])
def test_every_pooling_of_equal_and_of_different_streams_learns_and_comes_back(
    streams: str, pooling: str, pictures: NDArray[np.float32], tmp_path: Path
) -> None:
    comes_back(shape(streams, pooling), pictures, tmp_path)


@pytest.mark.parametrize("streams", ["small", TWO])
def test_a_head_tells_its_descriptor_too(streams: str, pictures: NDArray[np.float32]) -> None:
    bcnn = build(shape(streams))
    feature_map = bcnn.suffix(pictures)
    logits, descriptor = with_descriptor(bcnn)(feature_map, training=False)
    np.testing.assert_array_equal(logits, bcnn.head(feature_map, training=False))
    kernel, bias = bcnn.model.get_layer("logits").get_weights()
    np.testing.assert_allclose(descriptor @ kernel + bias, logits, rtol=1e-4, atol=1e-5)


PAIRED_BACKBONES = (*BACKBONES, "mobilenet_v2_0.35", "vgg16,mobilenet_v2", "resnet50,efficientnet_b0")
PAIRED_POOLINGS = [
    (name, pooling)
    for place, name in enumerate(PAIRED_BACKBONES)
    for pooling in [heads.names()[(2 * place + which) % len(heads.names())] for which in (0, 1)]
]
"""Two poolings for each backbone, and at least three backbones for each pooling: a pooling sees no more of a backbone
than its channels and grid, so a fault of a pair shows in the backbone's other pair or with the pooling's other maps."""


def test_the_pairs_cover_every_backbone_and_every_pooling() -> None:
    backbones, poolings = (Counter(names) for names in zip(*PAIRED_POOLINGS, strict=True))
    assert set(backbones.values()) == {2}
    assert backbones.keys() == set(PAIRED_BACKBONES)
    assert poolings.keys() == set(heads.names())
    assert min(poolings.values()) >= 3


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pooling"), PAIRED_POOLINGS)
def test_every_backbone_with_two_poolings_learns_and_comes_back(
    name: str, pooling: str, pictures: NDArray[np.float32], tmp_path: Path
) -> None:
    comes_back(shape(name, pooling), pictures, tmp_path)


def test_the_papers_vgg16_at_448_px_has_its_262144_features_and_as_many_parameters_as_a_hand_count() -> None:
    classes = 20
    full = build(shape("vgg16", "outer", classes=classes))
    fixed = folded(full, height_px=448, width_px=448)
    assert fixed.get_layer("block5_conv3").output.shape == (None, 28, 28, 512)
    assert fixed.get_layer("outer_product").output.shape == (None, 512 * 512)
    assert 512 * 512 == 262_144

    def convolutions(channels: int, filters: int, count: int) -> int:
        """3×3 kernels and biases of a block, the first from `channels`, the others from `filters`."""
        return (9 * channels + 1) * filters + (count - 1) * (9 * filters + 1) * filters

    blocks = [(3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3)]
    backbone_parameters = sum(convolutions(*block) for block in blocks)
    assert backbone_parameters == 14_714_688
    assert full.head.count_params() == 262_144 * classes + classes
    assert full.model.count_params() == fixed.count_params() == backbone_parameters + 262_144 * classes + classes


@pytest.mark.parametrize("name", ALL_BACKBONES)
def test_a_backbone_ends_where_the_table_says(name: str) -> None:
    ends = {
        **{"vgg16": (4, 512), "vgg19": (4, 512), "resnet50": (4, 1024), "mobilenet_v2": (2, 320)},
        **{"mobilenet_v2_0.35": (2, 112), "mobilenet_v3_small": (2, 96), "mobilenet_v3_large": (2, 160)},
        **{f"efficientnet_lite{variant}": (2, at) for variant, at in enumerate((320, 320, 352, 384, 448))},
        **{"efficientnet_b0": (2, 320), "small": (8, 128), "custom": (16, 64)},
    }
    side, channels = ends[name]
    frozen = frozen_layers(name, weights="imagenet", frozen_through="auto")
    bcnn = build(shape(name, "gap"), frozen_through=frozen)
    pictures = np.zeros((1, SIDE_PX, SIDE_PX, 3), np.float32)
    assert bcnn.suffix(pictures if bcnn.prefix is None else bcnn.prefix(pictures)).shape == (1, side, side, channels)
    assert (frozen is None) == (name in ("small", "custom"))
    trained = sum(weight.shape.num_elements() for weight in bcnn.suffix.trainable_weights)
    assert trained > 0


def test_the_documentation_lists_every_backbone_with_its_layers() -> None:
    table = (Path(__file__).parents[1] / "docs" / "streams.md").read_text()
    for name, chosen in BACKBONES.items():
        (row,) = (line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"| `{chosen.last_layer}` |" in row
        assert chosen.frozen_through is None or f"| `{chosen.frozen_through}` |" in row
        assert ("ImageNet" in row) == chosen.pretrained


@pytest.fixture
def maps(pictures: NDArray[np.float32]) -> tuple[Bcnn, NDArray[np.float32], NDArray[np.float32]]:
    """A model with different streams, and what its streams give: A `(4, 16, 16, 64)`, B `(4, 8, 8, 128)`."""
    bcnn = build(shape(TWO, "outer"))
    return bcnn, outputs(bcnn, "a_custom_3_relu", pictures), outputs(bcnn, "b_small_5_relu", pictures)


def averaged(a: NDArray[np.float32]) -> NDArray[np.float32]:
    n, h, w, channels = a.shape
    return np.asarray(a.reshape(n, h // 2, 2, w // 2, 2, channels).mean(axis=(2, 4)))


def test_the_finer_map_is_averaged_to_the_coarser_grid_and_that_is_said(
    maps: tuple[Bcnn, NDArray[np.float32], NDArray[np.float32]], pictures: NDArray[np.float32]
) -> None:
    bcnn, a, b = maps
    assert (a.shape[1:], b.shape[1:]) == ((16, 16, 64), (8, 8, 128))
    np.testing.assert_allclose(outputs(bcnn, "align", pictures), averaged(a), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(bcnn.suffix(pictures), np.concatenate([averaged(a), b], -1), rtol=1e-5, atol=1e-6)
    assert bcnn.alignment == (
        "the map of stream A, custom, is averaged over 2×2 locations to the grid of stream B, small: "
        "64×64 to 32×32 at 256 px"
    )
    assert build(shape("custom")).alignment is None


def test_two_maps_of_one_grid_are_left_as_they_are() -> None:
    assert build(shape("small:small_3_relu,custom")).alignment is None


def test_unequal_channels_pool_as_numpy_does(
    maps: tuple[Bcnn, NDArray[np.float32], NDArray[np.float32]], pictures: NDArray[np.float32]
) -> None:
    _, *both_maps = maps
    full = maps[0]
    a, b = averaged(both_maps[0]), both_maps[1]
    locations = a.shape[1] * a.shape[2]
    expected = np.einsum("nhwi,nhwj->nij", a, b).reshape(len(a), -1) / locations
    np.testing.assert_allclose(outputs(full, "outer_product", pictures), expected, rtol=1e-4, atol=1e-6)

    def same_streams(pooling: str) -> Bcnn:
        bcnn = build(shape(TWO, pooling))
        bcnn.suffix.set_weights(full.suffix.get_weights())
        return bcnn

    poolings: tuple[str, ...] = ("hadamard", "maclaurin")
    for pooling in poolings:
        low_rank = same_streams(pooling)
        u, v = (low_rank.model.get_layer(f"project_{side}").get_weights()[0][0, 0] for side in "uv")
        assert (u.shape, v.shape) == ((64, 16), (128, 16))
        expected = np.einsum("nhwi,id,nhwj,jd->nd", a, u, b, v, optimize=True) / locations
        np.testing.assert_allclose(outputs(low_rank, "hadamard_product", pictures), expected, rtol=1e-3, atol=1e-5)
    expected = np.concatenate([a.mean(axis=(1, 2)), b.mean(axis=(1, 2))], axis=-1)
    np.testing.assert_allclose(outputs(same_streams("gap"), "average", pictures), expected, rtol=1e-4, atol=1e-6)
    sketched = same_streams("tensor_sketch")
    hashes = [weights.astype(int) for weights in sketched.model.get_layer("tensor_sketch").get_weights()]
    np.testing.assert_allclose(
        outputs(sketched, "tensor_sketch", pictures), sketch(a, b, *hashes, size=16), rtol=1e-3, atol=1e-5
    )


def sketch(
    a: NDArray[np.float32], b: NDArray[np.float32], of_a: NDArray[Any], of_b: NDArray[Any], *, size: int
) -> NDArray[np.float64]:
    """Every product a_i b_j goes, with both signs, to bucket h(i) + h(j) mod size."""
    moments = np.einsum("nhwi,nhwj->nij", a, b) / (a.shape[1] * a.shape[2])
    buckets = (np.abs(of_a)[:, np.newaxis] + np.abs(of_b) - 2) % size
    signs = np.sign(of_a)[:, np.newaxis] * np.sign(of_b)
    scale = np.sqrt(size / (len(of_a) * len(of_b)))
    return np.stack([(moments * signs * scale)[:, buckets == bucket].sum(axis=1) for bucket in range(size)], axis=1)


def test_lrbc_of_two_streams_reaches_any_bilinear_form(
    maps: tuple[Bcnn, NDArray[np.float32], NDArray[np.float32]],
    pictures: NDArray[np.float32],
    rng: np.random.Generator,
) -> None:
    full, a, b = maps
    a, (m, n) = averaged(a), (64, 128)
    bcnn = build(shape(TWO, "lrbc", rank=m + n, class_rank=4))
    bcnn.suffix.set_weights(full.suffix.get_weights())
    u, v = rng.standard_normal((CLASSES, m, 2)), rng.standard_normal((CLASSES, n, 2))
    side_by_side = np.eye(m + n)[np.newaxis, np.newaxis]
    bcnn.model.get_layer("project_a").set_weights([side_by_side[:, :, :m]])
    bcnn.model.get_layer("project_b").set_weights([side_by_side[:, :, m:]])
    # uᵀa · vᵀb is a quarter of the square of the sum less a quarter of the square of the difference.
    squares = np.concatenate([np.concatenate([u, v], 1), np.concatenate([u, -v], 1)], axis=2) / 2
    bcnn.model.get_layer("factors").set_weights([squares.transpose(1, 0, 2).reshape(1, 1, m + n, -1)])
    expected = np.einsum("nhwi,kir,kjr,nhwj->nk", a, u, v, b, optimize=True) / (a.shape[1] * a.shape[2])
    np.testing.assert_allclose(bcnn.model(pictures), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("streams", "frozen_through", "record"),
    [
        (TWO, "custom_2_pool,small_2_relu", (4, 16, 16, 32 + 48)),
        (TWO, "custom_1_pool,small_4_relu", (4, 8, 8, 16 * 16 + 96)),
        (TWO, "none,small_2_relu", (4, 16, 16, 3 * 16 + 48)),
        (TWO, None, (4, SIDE_PX, SIDE_PX, 3)),
    ],
)
def test_the_parts_of_two_streams_chained_are_the_whole_model(
    streams: str, frozen_through: str | None, record: tuple[int, ...], pictures: NDArray[np.float32]
) -> None:
    bcnn = build(shape(streams), frozen_through=frozen_through)
    frozen = pictures if bcnn.prefix is None else bcnn.prefix(pictures)
    assert frozen.shape == record
    np.testing.assert_allclose(bcnn.head(bcnn.suffix(frozen)), bcnn.model(pictures), rtol=1e-4, atol=1e-6)
    parts = [part for part in (bcnn.prefix, bcnn.suffix, bcnn.head) if part is not None]
    assert sum(len(part.weights) for part in parts) == len(bcnn.model.weights)


def test_packing_loses_nothing(rng: np.random.Generator) -> None:
    fine, coarse = rng.standard_normal((2, 8, 12, 3)), rng.standard_normal((2, 2, 3, 5))
    packed = PackMaps((4, 1))([fine, coarse])
    assert packed.shape == (2, 2, 3, 3 * 16 + 5)
    for unpacked, original in zip(UnpackMaps((4, 1), (3, 5))(packed), (fine, coarse), strict=True):
        np.testing.assert_array_equal(unpacked, original.astype(np.float32))


def test_equal_streams_are_one_network_unless_they_are_to_be_two(pictures: NDArray[np.float32], tmp_path: Path) -> None:
    shared = build(shape("custom"))
    weights = str(tmp_path / "custom.h5")
    shared.suffix.save_weights(weights)
    separate = build(shape("custom", shared_weights=False), weights=weights)
    assert separate.suffix.count_params() == 2 * shared.suffix.count_params()
    a, b = (outputs(separate, f"{side}_custom_3_relu", pictures) for side in "ab")
    np.testing.assert_array_equal(a, b, "both start from the file")
    np.testing.assert_allclose(a, shared.suffix(pictures), rtol=1e-5, atol=1e-6)
    take_a_step(separate, pictures)
    trained = (separate.model.get_layer(f"{side}_custom_3_conv").get_weights()[0] for side in "ab")
    assert not np.array_equal(*trained)


def test_each_stream_starts_from_its_own_weights(pictures: NDArray[np.float32], tmp_path: Path) -> None:
    files = {}
    for name in ("custom", "small"):
        alone = build(shape(name))
        files[name] = str(tmp_path / f"{name}.h5")
        alone.suffix.save_weights(files[name])
    bcnn = build(shape(TWO), weights=f"{files['custom']},{files['small']}")
    np.testing.assert_allclose(outputs(bcnn, "b_small_5_relu", pictures), alone.suffix(pictures), rtol=1e-4, atol=1e-5)
    with pytest.raises(TrainingError, match=r"small\.h5 does not hold weights of custom without its classifier"):
        build(shape(TWO), weights=f"{files['small']},{files['custom']}")
    with pytest.raises(TrainingError, match="cannot start both custom and small: give --weights A,B"):
        build(shape(TWO), weights=files["small"])


@pytest.mark.shared
def test_published_mobilenet_weights_fit_their_width_alone(shared: Path) -> None:
    weights = str(shared / "weights" / "mobilenet_v2_1.0_224_no_top.h5")
    with pytest.raises(TrainingError, match=r"does not hold weights of mobilenet_v2_0\.5 without its classifier"):
        build(shape("mobilenet_v2_0.5"), weights=weights)


def test_frozen_layers_are_each_backbones_own_unless_it_starts_from_nothing() -> None:
    def frozen(streams: str, weights: str = "imagenet", frozen_through: str = "auto") -> str | None:
        return frozen_layers(streams, weights=weights, frozen_through=frozen_through)

    assert frozen("mobilenet_v2") == "block_5_add"
    assert frozen("vgg16,mobilenet_v2") == "block4_pool,block_5_add"
    assert frozen("vgg16,small", "imagenet,none") == "block4_pool,none"
    assert frozen("vgg16,mobilenet_v2", "none") is None
    assert frozen("vgg16,mobilenet_v2", frozen_through="none,auto") == "none,block_5_add"
    assert frozen("vgg16", frozen_through="block3_pool") == "block3_pool"


@pytest.mark.parametrize(
    ("name", "module"), [("tf", "mobilenet_v2"), ("caffe", "vgg16"), ("caffe", "vgg19"), ("caffe", "resnet50")]
)
def test_a_pixel_format_is_what_keras_makes_of_pixels(name: Any, module: str, pixels: NDArray[np.uint8]) -> None:
    expected = getattr(keras.applications, module).preprocess_input(pixels.astype(np.float32))
    np.testing.assert_allclose(normalized(tf.constant(pixels / 127.5 - 1, tf.float32), name), expected, atol=1e-4)


PUBLISHED = {
    **{"vgg16": ("vgg16", "VGG16"), "vgg19": ("vgg19", "VGG19"), "resnet50": ("resnet50", "ResNet50")},
    "mobilenet_v2": ("mobilenet_v2", "MobileNetV2"),
    "mobilenet_v3_small": ("mobilenet_v3", "MobileNetV3Small"),
    "mobilenet_v3_large": ("mobilenet_v3", "MobileNetV3Large"),
    "efficientnet_b0": ("efficientnet", "EfficientNetB0"),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "vgg16" else [pytest.mark.slow]) for name in PUBLISHED],
)
def test_a_backbone_sees_what_the_published_network_sees(name: str, pixels: NDArray[np.uint8]) -> None:
    module, application = PUBLISHED[name]
    keras.utils.set_random_seed(0)
    keras.backend.reset_uids()
    published = getattr(keras.applications, application)(weights=None, include_top=False)
    ours = backbone(name).build(keras.Input((None, None, 3)), prefix="a_")
    for layer in ours.layers:
        if layer.weights:
            published.get_layer(layer.name.removeprefix("a_")).set_weights(layer.get_weights())
    if name == "efficientnet_b0":  # what its weights file holds, and the factor that Keras adds to it
        std = np.array([0.229, 0.224, 0.225])
        published.get_layer("normalization").set_weights([np.array([0.485, 0.456, 0.406]), std**2, 0])
    expected = published(getattr(keras.applications, module).preprocess_input(pixels.astype(np.float32)))
    scale = float(np.abs(expected).max())
    assert scale > 0
    np.testing.assert_allclose(
        ours((pixels / 127.5 - 1).astype(np.float32)) / scale, expected / scale, rtol=1e-3, atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["hadamard", "lrbc", "gap"])
def test_two_different_streams_are_integer_throughout_in_int8(pooling: str, pixels: NDArray[np.uint8]) -> None:
    bcnn = build(shape("vgg16:block2_conv2,small", pooling))
    assert bcnn.alignment is not None
    assert_integer(bcnn, pixels)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in ("small", "mobilenet_v2")])
def test_every_backbone_is_integer_throughout_in_int8(name: str, pixels: NDArray[np.uint8]) -> None:
    assert_integer(build(shape(name)), pixels)


def assert_integer(bcnn: Bcnn, pixels: NDArray[np.uint8]) -> None:
    preprocessing = Preprocessing(height_px=SIDE_PX, width_px=SIDE_PX)
    model = folded(bcnn, height_px=SIDE_PX, width_px=SIDE_PX)
    found = audit(int8_source(model, preprocessing=preprocessing).quantized(pixels).content)
    assert found.integer_only, found.summary()


@pytest.mark.parametrize(
    ("streams", "sentence"),
    [
        ("vgg", r"unknown backbone 'vgg': did you mean vgg19 or vgg16\?"),
        ("mobilenet_v2_9", "mobilenet_v2_9 has a width of 9"),
        ("small:small_5_rel", "has no layer 'small_5_rel'; closest: small_5_relu"),
        ("small,custom:custom_3_cond", "has no layer 'custom_3_cond'; closest: custom_3_conv"),
    ],
)
def test_a_stream_that_does_not_exist_is_refused(streams: str, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        build(shape(streams))


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"streams": "small,custom,small"}, "neither one for both streams nor two with a comma between"),
        ({"streams": "small,"}, "neither one for both streams nor two"),
        ({"streams": TWO, "shared_weights": True}, "custom and small differ and cannot have --shared-weights"),
    ],
)
def test_streams_that_are_not_one_or_two_or_cannot_be_shared_are_refused(
    choices: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError, match=sentence):
        shape(**choices)


def test_a_rank_above_the_product_of_unequal_channels_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"8193 is too large: .* 64 and 128 channels of custom,small .* most 8192"):
        build(shape(TWO, "hadamard", rank=64 * 128 + 1))


def test_shared_streams_cannot_be_frozen_through_two_layers() -> None:
    with pytest.raises(TrainingError, match="frozen through one layer, not small_1_relu and small_2_relu"):
        build(shape("small"), frozen_through="small_1_relu,small_2_relu")


def test_one_spelling_stands_for_both_and_files_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert both("vgg16") == ("vgg16", "vgg16")
    assert both("vgg16,small") == ("vgg16", "small")
    monkeypatch.chdir(tmp_path)
    assert with_absolute_files("my.keras:conv/2:raw,vgg16:pool") == f"{tmp_path}/my.keras:conv/2:raw,vgg16:pool"
