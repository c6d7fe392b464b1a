"""Initializes a compact model from a trained full one instead of from random weights.

The backbone is copied. The classifier of the outer product is factorized (`edgebcnn.model.factorize`), which needs no
photo; then `settle` fits what a tail adds, one scale for the logits and the ranges of a `tanh` tail, to a few photos.

The full model takes a signed square root and a norm between outer product and classifier, which no low-rank form can
undo: the root of a sum is no sum of roots. But they change the order of the logits little. So the classifier is moved
in front of them, each entry divided by what root and norm divide it by in a typical photo, and the `l2` tail, which
changes no order, gives all photos logits of one size again. On real photos 98 % of the predictions stay; a `tanh`
or `sqrt` tail after the low-rank form loses more of them than the low rank does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.model.bcnn import DESCRIPTOR_LENGTH, Bcnn
from edgebcnn.model.factorize import Array
from edgebcnn.model.head import BilinearClassifier
from edgebcnn.model.keras import keras
from edgebcnn.progress import Advance

SETTLING_PHOTOS = 256
"""A scale and the ranges of a few hundred channels need no more."""

_TANH_GAIN = 0.25
"""Standard deviation of the input of a settled tanh: at 0.5 the few photos that excite a channel most are cut off."""

_KEEPING_CHANNELS = (keras.layers.Activation, keras.layers.ReLU, keras.layers.AveragePooling2D)
"""Layers between a batch normalization and the outer product that leave the channels' proportions about as they are."""

_SMALLEST_SCALE = 1e-3  # of the largest: a dead channel must not get a weight without bound


def start_from_full(full: Bcnn, compact: Bcnn, *, advance: Advance = lambda sweeps: None) -> None:
    """Gives a compact model the backbone of a full one, and the low-rank form of its classifier. No photo is needed.

    Args:
        full: A trained model with the outer product.
        compact: Its replacement, changed; a pooling without second order takes the backbone alone.
        advance: Called with 1, as often as `Head.sweeps` of the pooling says.
    """
    for part in ("prefix", "suffix"):
        if getattr(full, part) is not None:
            getattr(compact, part).set_weights(getattr(full, part).get_weights())
    head, layer = compact.architecture.head, compact.model.get_layer
    if head.starts_from_full:
        classifier, shape = _linear_classifier(full), compact.architecture.head_shape
        weights = head.from_full(classifier, shape, lambda name: list(layer(name).get_weights()), advance)
        for name, of_layer in weights.items():
            layer(name).set_weights(of_layer)


def settle(compact: Bcnn, maps: NDArray[Any], logits: NDArray[np.floating]) -> None:
    """Fits what the factorization leaves open: the ranges of a `tanh` tail, and the size of all logits.

    Args:
        compact: A model that was started from a full one, changed; nothing where its pooling took the backbone alone.
        maps: `(n, h, w, M)` feature maps of a few hundred photos, which need no labels.
        logits: `(n, K)` the full model's logits of them.
    """
    head = compact.architecture.head
    if not head.starts_from_full:
        return
    # Spread over all photos, which lie product by product.
    chosen = np.unique(np.linspace(0, len(maps) - 1, SETTLING_PHOTOS, dtype=np.intp))
    maps, logits = np.asarray(maps[chosen], np.float32), logits[chosen]
    if compact.architecture.tail == "tanh":
        _settle_tanh(compact, maps)
    own = compact.head(maps, training=False).numpy()
    own, target = (each - each.mean(axis=1, keepdims=True) for each in (own, logits))
    size = float(np.sum(own * target) / max(np.sum(own * own), np.finfo(np.float32).tiny))
    if size > 0:
        name, power = head.scaled_layer
        kernel, *rest = compact.model.get_layer(name).get_weights()
        compact.model.get_layer(name).set_weights([kernel * size**power, *rest])


def _settle_tanh(compact: Bcnn, maps: NDArray[np.float32]) -> None:
    """Centres and scales every channel by what it is on these photos, and has the classifier undo both."""
    normalization, classifier = (compact.model.get_layer(name) for name in ("tail_BN", "logits"))
    momentum, normalization.momentum = normalization.momentum, 0.0  # the next batch's statistics replace all others
    compact.head(maps, training=True)
    normalization.momentum = momentum
    _, _, mean, variance = normalization.get_weights()
    deviation = np.sqrt(variance + normalization.epsilon)
    normalization.set_weights([np.full_like(mean, _TANH_GAIN), np.zeros_like(mean), mean, variance])
    p, bias = classifier.get_weights()
    classifier.set_weights([p * deviation[:, np.newaxis] / _TANH_GAIN, bias + mean @ p])


def _linear_classifier(full: Bcnn) -> BilinearClassifier:
    """The classifier as it would act on the outer product itself.

    ssqrt(x)/‖ssqrt(x)‖ is x/√|x| divided by √Σ|x|; |xᵢⱼ| is taken for the product of the sizes of channels i and j.
    """
    a, b = full.model.get_layer("outer_product").input
    rows, columns = _channel_sizes(a), _channel_sizes(b)
    sizes = np.outer(rows, columns)
    kernel, bias = full.model.get_layer("logits").get_weights()
    weights = np.asarray(kernel, np.float64).reshape(*sizes.shape, -1)
    weights *= (DESCRIPTOR_LENGTH / np.sqrt(sizes * sizes.sum()))[..., np.newaxis]
    return BilinearClassifier(weights, bias, scales=(rows, columns), symmetric=a is b)


def _channel_sizes(feature_map: Any) -> Array:
    """Root mean square of every channel, from its batch normalization, √(γ² + β²); ones where there is none."""
    layer = feature_map.node.layer
    while isinstance(layer, _KEEPING_CHANNELS):
        layer = layer.input.node.layer
    if not isinstance(layer, keras.layers.BatchNormalization):
        return np.ones(feature_map.shape[-1])
    gamma, beta = (np.asarray(weight.numpy(), np.float64) for weight in (layer.gamma, layer.beta))
    sizes = np.sqrt(gamma**2 + beta**2)
    return np.asarray(np.maximum(sizes, _SMALLEST_SCALE * sizes.max()))
