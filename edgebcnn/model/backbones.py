"""The convolutional backbones: the network of each, the layer that ends it, and the layers that stay frozen.

To add one, add it to `BACKBONES`; the command line and the tests take its name from there. Keras is imported when a
network is built, so that the names cost no start of TensorFlow.

`docs/streams.md` has the table. VGG16 to `block5_conv3` is network D of Lin et al. 2015. The others end before the
layers that only serve a classifier of 1000 classes: they cost as much as all our heads and add no accuracy. ResNet-50
ends a stage earlier, because the 2048 channels of its last one give a descriptor of four million numbers. What stays
frozen by default leaves a cache that fits on a disk and a part to train that a CPU can.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebcnn.errors import TrainingError
from edgebcnn.model.spelling import model_file

if TYPE_CHECKING:
    from edgebcnn.model.pixels import PixelFormat

IMAGENET = "imagenet"
NONE = "none"


@dataclass(frozen=True)
class Backbone:
    """A convolutional stream.

    Attributes:
        name: As it was written.
        published: Makes the whole network, as its weights are published, from an `(n, h, w, 3)` input tensor and
            `imagenet` or None.
        last_layer: Its output is the feature map that is pooled.
        frozen_through: Last layer that fine-tuning leaves alone, or None where all layers are trained.
        pretrained: Whether `imagenet` weights, or a user's own model's, exist for it.
        replaced: What takes the place of some of its layers, by their names.
        filled_from_pytorch: Makes the network with the weights of a PyTorch file, where it can.
    """

    name: str
    published: Callable[[Any, str | None], Any]
    last_layer: str
    frozen_through: str | None = None
    pretrained: bool = True
    replaced: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    filled_from_pytorch: Callable[[Any, Path], Any] | None = None

    def build(self, image: Any, *, prefix: str = "") -> Any:
        """The whole network on an `(n, h, w, 3)` input tensor in [-1, 1], with random weights.

        Args:
            image: Input tensor.
            prefix: Put before the name of every layer, so that two networks fit into one model.
        """
        from edgebcnn.model.keras import keras

        # Layers that Keras names by itself are then named alike every time.
        keras.backend.reset_uids()
        if not prefix and not self.replaced:
            return self.published(image, None)

        def copy(layer: Any) -> Any:
            kind = self.replaced.get(layer.name)
            source = kind() if kind else layer
            return type(source).from_config({**source.get_config(), "name": prefix + layer.name})

        plain = self.published(keras.Input((None, None, 3)), None)
        return keras.models.clone_model(plain, input_tensors=image, clone_function=copy)


def _application(name: str, pixel_format: PixelFormat = "tf", **arguments: Any) -> Callable[[Any, str | None], Any]:
    def published(image: Any, weights: str | None) -> Any:
        from edgebcnn.model.keras import keras
        from edgebcnn.model.pixels import Pixels

        pixels = image if pixel_format == "tf" else Pixels(pixel_format, name="pixels")(image)
        application = getattr(keras.applications, name)
        return application(input_tensor=pixels, include_top=False, weights=weights, **arguments)

    return published


def _small(image: Any, _weights: str | None) -> Any:
    from edgebcnn.model.keras import keras

    x = image
    for block, (filters, stride) in enumerate(_SMALL_BLOCKS, start=1):
        name = f"small_{block}"
        x = keras.layers.Conv2D(filters, 3, stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
        x = keras.layers.BatchNormalization(momentum=_SMALL_MOMENTUM, name=f"{name}_BN")(x)
        x = keras.layers.ReLU(6.0, name=f"{name}_relu")(x)
    return keras.Model(image, x)


_SMALL_BLOCKS = ((24, 2), (48, 2), (64, 1), (96, 2), (128, 1))
_SMALL_MOMENTUM = 0.9  # a few hundred steps are all it gets: the usual 0.99 would still remember the initial statistics


def _custom(image: Any, _weights: str | None) -> Any:
    from edgebcnn.model.keras import keras

    x = image
    for block, filters in enumerate((16, 32, 64), start=1):
        if block > 1:
            x = keras.layers.MaxPooling2D(name=f"custom_{block - 1}_pool")(x)
        x = keras.layers.Conv2D(filters, 3, padding="same", name=f"custom_{block}_conv")(x)
        x = keras.layers.ReLU(name=f"custom_{block}_relu")(x)
    return keras.Model(image, x)


def _mobilenet_v2(name: str, alpha: float) -> Backbone:
    published = _application("MobileNetV2", alpha=alpha)
    return Backbone(name, published, "block_16_project_BN", "block_5_add", pretrained=alpha in _PUBLISHED_ALPHAS)


_PUBLISHED_ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
_ALPHAS = (0.1, 4.0)  # narrower than that all layers have 8 channels, wider nobody has measured


def _efficientnet_lite(variant: int) -> Backbone:
    def published(image: Any, weights: str | None) -> Any:
        from edgebcnn.model.efficientnet_lite import efficientnet_lite, pretrained

        return pretrained(image, variant) if weights else efficientnet_lite(image, variant)

    def filled_from_pytorch(image: Any, weights: Path) -> Any:
        from edgebcnn.model.efficientnet_lite import filled

        return filled(published(image, None), weights, variant)

    return Backbone(
        f"efficientnet_lite{variant}",
        published,
        "block7a_project_bn",
        "block3b_add",
        filled_from_pytorch=filled_from_pytorch,
    )


def _torch_pixels() -> Any:
    from edgebcnn.model.pixels import Pixels

    return Pixels("torch")


def _nothing() -> Any:
    from edgebcnn.model.keras import keras

    return keras.layers.Activation("linear")


# EfficientNet's own rescaling takes 0-255 in three steps, and int8 would round every one of them.
_EFFICIENTNET_FRONT: dict[str, Callable[[], Any]] = {"rescaling": _torch_pixels, "normalization": _nothing}

BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        _mobilenet_v2("mobilenet_v2", 1.0),
        Backbone("vgg16", _application("VGG16", "caffe"), "block5_conv3", "block4_pool"),
        Backbone("vgg19", _application("VGG19", "caffe"), "block5_conv4", "block4_pool"),
        Backbone("resnet50", _application("ResNet50", "caffe"), "conv4_block6_out", "conv4_block3_out"),
        Backbone(
            "mobilenet_v3_small",
            _application("MobileNetV3Small", include_preprocessing=False),
            "expanded_conv_10/Add",
            "expanded_conv_2/Add",
        ),
        Backbone(
            "mobilenet_v3_large",
            _application("MobileNetV3Large", include_preprocessing=False),
            "expanded_conv_14/Add",
            "expanded_conv_5/Add",
        ),
        Backbone(
            "efficientnet_b0",
            _application("EfficientNetB0"),
            "block7a_project_bn",
            "block3b_add",
            replaced=_EFFICIENTNET_FRONT,
        ),
        *(_efficientnet_lite(variant) for variant in range(5)),
        Backbone("small", _small, "small_5_relu", pretrained=False),
        Backbone("custom", _custom, "custom_3_relu", pretrained=False),
    )
}


def backbone(stream: str) -> Backbone:
    """The backbone that is written like that.

    Raises:
        TrainingError: no such backbone; the message names the closest ones.
    """
    if own := model_file(stream):
        return _own(stream, *own)
    name, _, layer = stream.partition(":")
    chosen = BACKBONES.get(name) or _of_width(name)
    if chosen is None:
        close = difflib.get_close_matches(name, BACKBONES, n=3, cutoff=0.3) or sorted(BACKBONES)
        raise TrainingError(f"unknown backbone {name!r}: did you mean {' or '.join(close)}?")
    return replace(chosen, name=stream, last_layer=layer or chosen.last_layer)


def _of_width(name: str) -> Backbone | None:
    found = re.fullmatch(r"mobilenet_v2_(\d+(?:\.\d+)?)", name)
    if found is None:
        return None
    alpha = float(found[1])
    if not _ALPHAS[0] <= alpha <= _ALPHAS[1]:
        raise TrainingError(f"{name} has a width of {alpha:g}: give one of {_ALPHAS[0]} to {_ALPHAS[1]}")
    return _mobilenet_v2(name, alpha)


def _own(stream: str, file: str, layer: str | None, pixels: str | None) -> Backbone:
    from edgebcnn.model.model_file import pixel_format_of, published_by

    if layer is None:
        raise TrainingError(f"{file} is a model file, and no layer is given that ends the stream: give {file}:LAYER")
    return Backbone(stream, published_by(file, layer, pixel_format_of(stream, pixels)), layer)
