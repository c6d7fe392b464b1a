"""Opens a user's own Keras model without running code that is hidden in it.

A Keras file names classes and functions, and some of them run code from the file: a Lambda layer holds compiled Python.
So its description is read as plain data first, and only what is known to be harmless is opened.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from typing import Any, get_args
from zipfile import ZipFile

import h5py

from edgebcnn.errors import EdgebcnnError, TrainingError, first_line
from edgebcnn.model.keras import keras, tf
from edgebcnn.model.pixels import PixelFormat, Pixels
from edgebcnn.untrusted.files import MAX_BYTES, json_of

_PUBLIC = ("", ".activations", ".constraints", ".initializers", ".layers", ".models", ".regularizers")
_PRIVATE = (".src.engine.functional", ".src.engine.sequential", ".src.layers.core.tf_op_layer")
_MODULES = {None, "builtins", *(name + part for name in ("keras", "tf_keras") for part in (*_PUBLIC, *_PRIVATE))}
_RUNS_CODE = {"Lambda", "__lambda__", "TensorFlowOpLayer", "ClassMethod", "InstanceMethod", "InstanceProperty"}
_ANOTHER_SIZE = (96, 160)  # that nobody trains at
_ARITHMETIC = ("__operators__.", "math.", "nn.")  # of the operators that Keras turns into layers by itself


def read_model(file: str) -> Any:
    """Opens a Keras model, with its weights, for inference.

    Raises:
        TrainingError: no such file, not a model that this Keras reads, or one that holds code.
    """
    if not os.path.isfile(file):
        raise TrainingError(f"no Keras model at {file}: put it there, or give --streams another")
    try:
        description = _description(file)
        _check_harmless(file, description)
        return keras.models.load_model(file, compile=False, safe_mode=True)
    except EdgebcnnError:
        raise
    except Exception as error:  # Keras lets through whatever its layers raise for a malformed description
        raise TrainingError(
            f"{file} cannot be opened as a whole Keras model ({first_line(error)}): save it with model.save() of "
            "tf_keras, or of Keras in TensorFlow up to 2.15"
        ) from error


def pixel_format_of(stream: str, pixels: str | None) -> PixelFormat:
    """The pixel format that a stream of a model file names; `tf` where it names none.

    Raises:
        TrainingError: there is no such format.
    """
    formats = get_args(PixelFormat)
    if pixels is not None and pixels not in formats:
        raise TrainingError(f"unknown pixels {pixels!r} in {stream}: give one of {', '.join(formats)}, or leave it out")
    chosen: PixelFormat = next(known for known in formats if known == (pixels or "tf"))
    return chosen


def published_by(file: str, layer: str, pixel_format: PixelFormat) -> Callable[[Any, str | None], Any]:
    """What `Backbone.published` is for a stream that is cut from a model file."""

    def published(image: Any, weights: str | None) -> Any:
        model = cut_model(read_model(file), file, layer)
        if weights:
            return model
        try:
            return keras.models.clone_model(for_any_size(model, pixel_format), input_tensors=image)
        except ValueError as error:
            raise TrainingError(
                f"{file} takes images of one size only ({first_line(error)}): end the stream at an earlier layer "
                f"than {layer}"
            ) from error

    return published


def cut_model(model: Any, file: str, layer: str) -> Any:
    """The part of a model from its image to a layer.

    Raises:
        TrainingError: it takes no image, or has no such layer (the message names the closest ones).
    """
    shapes = [tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or ()]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] != 3:
        raise TrainingError(f"{file} does not take images (n, h, w, 3) but {shapes}: give another model")
    return keras.Model(model.inputs, layer_output(model, file, layer))


def layer_output(network: Any, name: str, layer: str, *, prefix: str = "") -> Any:
    """Output of a layer of a network, `(n, h, w, channels)`.

    Args:
        network: Where the layer is.
        name: What the network is called in a message.
        layer: Name of the layer.
        prefix: What the network's layers are called with before their names.

    Raises:
        TrainingError: no such layer (the message names the closest ones), or one that gives no feature map.
    """
    names = [each.name.removeprefix(prefix) for each in network.layers]
    if layer not in names:
        close = ", ".join(difflib.get_close_matches(layer, names, n=3, cutoff=0))
        raise TrainingError(f"{name} has no layer {layer!r}; closest: {close}")
    found = network.get_layer(prefix + layer)
    # A model inside a model has an output of its own, before the one that it has there.
    output = found.get_output_at(-1) if isinstance(found, keras.Model) else found.output
    if len(output.shape) != 4 or output.shape[-1] is None:
        raise TrainingError(
            f"layer {layer} of {name} gives {tuple(output.shape)} and no feature map (n, h, w, channels): choose a "
            "convolutional layer"
        )
    return output


def for_any_size(model: Any, pixel_format: PixelFormat) -> Any:
    """A copy of a model, with new weights that are all trained, which takes RGB in [-1, 1] of any height and width.

    Raises:
        ValueError: it has a layer that takes one size alone.
    """
    config = model.get_config()
    image = model.input_names[0]
    for entry in _entries(config):
        if entry["class_name"] == "InputLayer" and len(entry["config"]["batch_input_shape"]) == 4:
            entry["config"]["batch_input_shape"] = (None, None, None, entry["config"]["batch_input_shape"][-1])
        entry.pop("build_config", None)  # the sizes that its layers had
    if pixel_format != "tf":
        for entry in config["layers"]:
            entry["inbound_nodes"] = _redirected(entry["inbound_nodes"], image, "pixels")
        pixels = keras.saving.serialize_keras_object(Pixels(pixel_format, name="pixels"))
        config["layers"].append({**pixels, "name": "pixels", "inbound_nodes": [[[image, 0, 0, {}]]]})
    copy = keras.Model.from_config(config)
    # An inner layer of fixed size shows only when an image of another size goes through.
    tf.function(copy, autograph=False).get_concrete_function(tf.TensorSpec((1, *_ANOTHER_SIZE, 3)))
    copy.trainable = True  # what is frozen is a choice of the training, not of the file
    return copy


def _redirected(nodes: Any, old: str, new: str) -> Any:
    """Inbound nodes that take from layer `new` what they took from layer `old`."""
    if isinstance(nodes, (list, tuple)):
        if len(nodes) >= 3 and nodes[0] == old and nodes[1:3] == [0, 0]:
            return [new, *nodes[1:]]
        return [_redirected(each, old, new) for each in nodes]
    return nodes


def _description(file: str) -> Any:
    if file.endswith(".keras"):
        with ZipFile(file) as archive:
            description = json_of(_description_bytes(archive), allow_nan=True)
        description.pop("compile_config", None)  # how it was trained is not opened
        return description
    with h5py.File(file) as archive:
        if "model_config" not in archive.attrs:
            raise ValueError("it holds weights alone")
        text = archive.attrs["model_config"]
        return json_of(text.encode() if isinstance(text, str) else bytes(text), allow_nan=True)


def _description_bytes(archive: ZipFile) -> bytes:
    """The description of a `.keras` file, whose header may promise anything."""
    with archive.open("config.json") as member:
        content = member.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"its config.json is larger than {MAX_BYTES >> 20} MB")
    return content


def _check_harmless(file: str, description: Any) -> None:
    for entry in _entries(description):
        kind, module = entry["class_name"], entry.get("module")
        function = entry.get("config", {}).get("function", "") if kind.endswith("OpLambda") else None
        if kind in _RUNS_CODE or (function is not None and not str(function).startswith(_ARITHMETIC)):
            raise TrainingError(
                f"{file} holds a {kind} layer, which can run any code: build the model without it and save it again"
            )
        if module not in _MODULES:
            raise TrainingError(
                f"{file} needs {kind} of {module}, and only layers of Keras itself are opened: "
                "build the model without it and save it again"
            )


def _entries(description: Any) -> Iterator[dict[str, Any]]:
    """Everything in the description that names a class or function."""
    if isinstance(description, dict):
        if isinstance(description.get("class_name"), str):
            yield description
        for value in description.values():
            yield from _entries(value)
    elif isinstance(description, (list, tuple)):
        for value in description:
            yield from _entries(value)
