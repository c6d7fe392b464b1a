"""Builds the two streams, aligns their feature maps on one grid, and cuts them into a frozen and a trainable part.

Two maps on different grids are aligned by averaging the finer one over the cells of the coarser, an op that every
runtime has in int8; so one grid must be a whole multiple of the other, as those of all our backbones are.

What is cached between the parts of a model is one array. The outputs of two streams are packed into one: the finer is
folded to the coarser grid (space to depth, nothing is lost) and both lie side by side along the channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgebcnn.errors import TrainingError
from edgebcnn.model.backbones import NONE, Backbone, backbone
from edgebcnn.model.keras import keras, tf
from edgebcnn.model.model_file import layer_output
from edgebcnn.model.spelling import both
from edgebcnn.model.weights.starting_weights import load_weights

SIDE_MULTIPLE = 32
"""Sides divide evenly through all strides, so that a model built for any size pads as one built for that size."""

_PROBE_SIDES = (8 * SIDE_MULTIPLE, 9 * SIDE_MULTIPLE)

_register = keras.saving.register_keras_serializable(package="edgebcnn")


@dataclass(frozen=True)
class Stream:
    """One stream on its input tensor.

    Attributes:
        chosen: Its backbone.
        prefix: Before the names of its layers.
        network: The backbone, whole.
    """

    chosen: Backbone
    prefix: str
    network: Any

    @property
    def feature_map(self) -> Any:
        """Output of its last layer."""
        return self.output(self.chosen.last_layer)

    def output(self, layer: str) -> Any:
        """Output of a layer by its own name, `(n, h, w, channels)`; of `none`, the image.

        Raises:
            TrainingError: no such layer, or one that gives no feature map.
        """
        if layer == NONE:
            return self.network.input
        return layer_output(self.network, self.chosen.name, layer, prefix=self.prefix)


def build_streams(streams: str, image: Any, *, shared: bool, weights: str = NONE) -> tuple[Stream, ...]:
    """Stream A and stream B on an image; one stream that stands for both, where weights are shared.

    Args:
        streams: Both, as `edgebcnn.model.spelling` writes them.
        image: `(n, h, w, 3)` input tensor in [-1, 1].
        shared: Whether both are one network.
        weights: What each starts from: `imagenet`, `none` or a file.

    Raises:
        TrainingError: unknown stream or layer, or weights that cannot be had or do not fit.
    """
    names, starts = both(streams), both(weights)
    if shared:
        return (_stream(names[0], image, starts[0], prefix=""),)
    if len(set(names)) == 2 and starts[0] == starts[1] and starts[0] not in ("imagenet", NONE):
        raise TrainingError(f"{weights} cannot start both {names[0]} and {names[1]}: give --weights A,B, one for each")
    a, b = (
        _stream(name, image, start, prefix=f"{side}_") for name, start, side in zip(names, starts, "ab", strict=True)
    )
    return a, b


def _stream(name: str, image: Any, weights: str, *, prefix: str) -> Stream:
    chosen = backbone(name)
    network = chosen.build(image, prefix=prefix)
    load_weights(network, chosen, weights, prefix=prefix)
    return Stream(chosen, prefix, network)


def align(image: Any, streams: Sequence[Stream]) -> tuple[tuple[Any, ...], str | None]:
    """Feature maps of the streams on one grid, and a sentence on how they were aligned, if anything was done.

    Raises:
        TrainingError: neither grid is a whole multiple of the other.
    """
    maps = tuple(stream.feature_map for stream in streams)
    if len(maps) == 1:
        return maps, None
    factors, grids = _factors(image, maps)
    names = [stream.chosen.name for stream in streams]
    if factors is None:
        raise TrainingError(
            f"the maps of {names[0]} and {names[1]} cannot be aligned, with {grids[0]} and {grids[1]} locations at "
            f"{_PROBE_SIDES[0]} px, because one must be a whole multiple of the other: end one stream at another layer"
        )
    if factors == (1, 1):
        return maps, None
    fine = factors.index(max(factors))
    factor = factors[fine]
    aligned = list(maps)
    aligned[fine] = keras.layers.AveragePooling2D(factor, name="align")(maps[fine])
    sentence = (
        f"the map of stream {'AB'[fine]}, {names[fine]}, is averaged over {factor}×{factor} locations to the grid of "
        f"stream {'AB'[1 - fine]}, {names[1 - fine]}: {grids[fine]} to {grids[1 - fine]} at {_PROBE_SIDES[0]} px"
    )
    return tuple(aligned), sentence


def cut(image: Any, streams: Sequence[Stream], maps: Sequence[Any], frozen_through: str | None) -> tuple[Any, Any]:
    """The frozen prefix, from the image to one array, and the suffix, from that (or the image) to one feature map.

    Args:
        image: The streams' input tensor.
        streams: One or two.
        maps: Their aligned feature maps.
        frozen_through: Last frozen layer of each, `none` for none of its layers; None for no prefix.

    Raises:
        TrainingError: unknown layer, or a network that cannot be cut in two there.
    """
    if frozen_through is None:
        return None, keras.Model(image, packed(maps), name="suffix")
    layers = both(frozen_through)
    if len(streams) == 1 and layers[0] != layers[1]:
        raise TrainingError(
            f"streams with shared weights are frozen through one layer, not {layers[0]} and {layers[1]}"
        )
    cuts = [stream.output(layer) for stream, layer in zip(streams, layers, strict=False)]
    tails = [_tail(*each) for each in zip(streams, layers, cuts, maps, strict=False)]
    if len(streams) == 1:
        return keras.Model(image, cuts[0], name="prefix"), tails[0]
    factors, grids = _factors(image, cuts)
    if factors is None:
        raise TrainingError(
            f"outputs of {layers[0]} and {layers[1]} cannot be cached side by side, with {grids[0]} and {grids[1]} "
            f"locations at {_PROBE_SIDES[0]} px: choose other layers, or --frozen-through none"
        )
    pack = PackMaps(factors, name="pack_cuts")
    prefix = keras.Model(image, pack(cuts), name="prefix")
    cached = keras.Input(prefix.output_shape[1:], name="frozen")
    parts = UnpackMaps(factors, [each.shape[-1] for each in cuts], name="unpack_cuts")(cached)
    outputs = [tail(part) for tail, part in zip(tails, parts, strict=True)]
    return prefix, keras.Model(cached, packed(outputs), name="suffix")


def _tail(stream: Stream, layer: str, start: Any, feature_map: Any) -> Any:
    try:
        return keras.Model(start, feature_map, name=f"{stream.prefix}suffix")
    except ValueError as error:  # Keras finds another way from the image to the feature map, or none
        chosen = stream.chosen
        raise TrainingError(
            f"{chosen.name} cannot be cut in two at {layer}, where layers are passed by or none is left to train: "
            f"use none, or the end of a block before {chosen.last_layer}"
        ) from error


def packed(maps: Sequence[Any]) -> Any:
    """Maps of one grid side by side along the channels; a single one as it is."""
    return maps[0] if len(maps) == 1 else PackMaps((1, 1), name="pack_maps")(list(maps))


def frozen_layers(streams: str, *, weights: str, frozen_through: str) -> str | None:
    """Last frozen layer of each stream, as `cut` takes it.

    Args:
        streams: Both.
        weights: What each starts from; a stream that starts from nothing has nothing to keep.
        frozen_through: `auto` for a backbone's own, `none`, or a layer, for both or for each.
    """
    layers = []
    for name, start, layer in zip(both(streams), both(weights), both(frozen_through), strict=True):
        own = NONE if start == NONE else backbone(name).frozen_through or NONE
        layers.append(own if layer == "auto" else layer)
    return None if set(layers) == {NONE} else ",".join(dict.fromkeys(layers))


def _factors(image: Any, outputs: Sequence[Any]) -> tuple[tuple[int, int] | None, list[str]]:
    """How many cells of each grid, along a side, go into one of the coarser; None where that is no whole number.

    The grids are those of the first probe, for a message.
    """
    grids = list(_grids(image, outputs))
    found = {(a[0] / b[0], a[1] / b[1]) for a, b in grids}
    names = [f"{height}×{width}" for height, width in grids[0]]
    (tall, wide), *others = found
    coarsening = max(tall, 1 / tall)
    if others or tall != wide or coarsening != round(coarsening):
        return None, names
    return ((round(tall), 1) if tall >= 1 else (1, round(coarsening))), names


def _grids(image: Any, outputs: Sequence[Any]) -> Iterator[list[tuple[int, int]]]:
    """Height and width of each output, for the image's size or, where it takes any, for each of the probes."""
    if image.shape[1] is not None:
        yield [tuple(each.shape[1:3]) for each in outputs]
        return
    # Whatever a user's layers do, tracing finds the shape that comes out.
    network = tf.function(keras.Model(image, list(outputs)), autograph=False)
    for side in _PROBE_SIDES:
        traced = network.get_concrete_function(tf.TensorSpec((1, side, side, 3))).structured_outputs
        yield [tuple(each.shape[1:3]) for each in traced]


@keras.saving.register_keras_serializable("edgebcnn", name="Pack")
class PackMaps(keras.layers.Layer):  # type: ignore[misc]
    """Two maps `(n, h·f, w·f, c)`, each of its own factor f, as one `(n, h, w, Σ c·f²)`, without loss.

    Args:
        factors: Of each map; space to depth folds it by that.
    """

    def __init__(self, factors: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factors = tuple(factors)

    def call(self, inputs: list[Any]) -> Any:
        """Packs the maps."""
        folded = [x if f == 1 else tf.nn.space_to_depth(x, f) for x, f in zip(inputs, self.factors, strict=True)]
        return tf.concat(folded, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, for saving."""
        return {**super().get_config(), "factors": self.factors}


@keras.saving.register_keras_serializable("edgebcnn", name="Unpack")
class UnpackMaps(keras.layers.Layer):  # type: ignore[misc]
    """The maps that `PackMaps` was given.

    Args:
        factors: What `PackMaps` had.
        channels: Of each map.
    """

    def __init__(self, factors: Sequence[int], channels: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factors, self.channels = tuple(factors), tuple(channels)

    def call(self, inputs: Any) -> list[Any]:
        """Unpacks the maps."""
        sizes = [channels * f**2 for channels, f in zip(self.channels, self.factors, strict=True)]
        parts = tf.split(inputs, sizes, axis=-1)
        return [x if f == 1 else tf.nn.depth_to_space(x, f) for x, f in zip(parts, self.factors, strict=True)]

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, for saving."""
        return {**super().get_config(), "factors": self.factors, "channels": self.channels}
