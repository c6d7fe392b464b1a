"""How two feature maps become one descriptor: bilinear pooling, exact and low-rank, and what follows it.

Each form is a function with its formula and a layer of a few lines around it. With A `(n, h, w, M)` and B
`(n, h, w, N)` the maps of the two streams, and L = h·w locations:

| layer             | computes                                    | size  | source                                   |
|-------------------|---------------------------------------------|-------|------------------------------------------|
| `OuterProduct`    | X = AᵀB / L, flattened                      | M·N   | Lin et al. 2015, arXiv 1504.07889        |
| `HadamardProduct` | mean over locations of (U a) ∘ (V b)        | d     | Kim et al. 2017, arXiv 1610.04325        |
| `SignedSqrt`      | x / √(|x| + ε)                              | same  | Perronnin et al. 2010; Lin et al. 2015   |
| `L2Normalize`     | s · x / ‖x‖                                 | same  | Lin et al. 2015                          |

The projections U and V of the Hadamard form are ordinary 1×1 convolutions, so that every runtime runs them.
"""

from __future__ import annotations

from typing import Any

from edgebcnn.model.keras import keras, tf

SQRT_EPSILON = 0.01
"""Bounds the slope of the signed square root at zero (to 10), where the exact one is infinite."""

_register = keras.saving.register_keras_serializable(package="edgebcnn")


def outer_product(a: Any, b: Any) -> Any:
    """Pools two maps into the M×N matrix of their channels' second moments, X = AᵀB / L, flattened row by row.

    Args:
        a: `(n, h, w, M)` float.
        b: `(n, h, w, N)` float, the same height and width.

    Returns:
        `(n, M·N)`; entry i·N + j is the mean over locations of a_i b_j (Lin et al. 2015, eq. 1, divided by L).
    """
    channels_a, channels_b = a.shape[-1], b.shape[-1]
    locations = tf.cast(tf.shape(a)[1] * tf.shape(a)[2], a.dtype)
    rows_a = tf.reshape(a, (-1, tf.shape(a)[1] * tf.shape(a)[2], channels_a))
    rows_b = tf.reshape(b, (-1, tf.shape(b)[1] * tf.shape(b)[2], channels_b))
    pooled = tf.matmul(rows_a, rows_b, transpose_a=True) / locations
    return tf.reshape(pooled, (-1, channels_a * channels_b))


def hadamard_product(u: Any, v: Any) -> Any:
    """Pools two projected maps: the mean over locations of u ∘ v.

    With u = U a and v = V b this is the rank-d part of the outer product, z_k = Uₖᵀ X Vₖ (Kim et al. 2017, eq. 3).

    Args:
        u: `(n, h, w, d)` float.
        v: `(n, h, w, d)` float.

    Returns:
        `(n, d)`.
    """
    return tf.reduce_mean(u * v, axis=(1, 2))


def signed_sqrt(x: Any, epsilon: float = SQRT_EPSILON) -> Any:
    """Square root that keeps the sign, with a bounded slope at zero: x · (|x| + ε)^-½, elementwise."""
    return x * tf.math.rsqrt(tf.abs(x) + epsilon)


def l2_normalize(x: Any, scale: float = 1.0) -> Any:
    """`scale` · x / ‖x‖₂ along the last axis; a zero vector stays zero."""
    return tf.math.l2_normalize(x, axis=-1) * scale


@_register
class OuterProduct(keras.layers.Layer):  # type: ignore[misc]
    """`outer_product` as a layer: `[(n, h, w, M), (n, h, w, N)]` to `(n, M·N)`."""

    def call(self, inputs: list[Any]) -> Any:
        """Pools the two maps."""
        return outer_product(*inputs)


@_register
class HadamardProduct(keras.layers.Layer):  # type: ignore[misc]
    """`hadamard_product` as a layer: `[(n, h, w, d), (n, h, w, d)]` to `(n, d)`."""

    def call(self, inputs: list[Any]) -> Any:
        """Pools the two projected maps."""
        return hadamard_product(*inputs)


@_register
class SignedSqrt(keras.layers.Layer):  # type: ignore[misc]
    """`signed_sqrt` as a layer."""

    def call(self, inputs: Any) -> Any:
        """Takes the signed square root of every element."""
        return signed_sqrt(inputs)


@_register
class L2Normalize(keras.layers.Layer):  # type: ignore[misc]
    """`l2_normalize` as a layer.

    Args:
        scale: Length of the output vectors; a longer one lets a softmax classifier become sure of itself.
    """

    def __init__(self, scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, inputs: Any) -> Any:
        """Scales every vector to the same length."""
        return l2_normalize(inputs, self.scale)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, for saving."""
        return {**super().get_config(), "scale": self.scale}


@_register
class Bias(keras.layers.Layer):  # type: ignore[misc]
    """Adds one learned number per channel: what is left of a batch normalisation whose scale was folded away."""

    def build(self, input_shape: Any) -> None:
        """Makes the `(channels,)` bias."""
        self.bias = self.add_weight(name="bias", shape=(input_shape[-1],), initializer="zeros")

    def call(self, inputs: Any) -> Any:
        """Adds the bias."""
        return inputs + self.bias
