"""How feature maps become one descriptor: bilinear pooling, exact, low-rank and sketched, and what follows it.

Each form is a function with its formula and a layer of a few lines around it. With A `(n, h, w, M)` and B
`(n, h, w, N)` the maps of the two streams, and L = h·w locations:

| layer             | computes                                    | size  | source                                    |
|-------------------|---------------------------------------------|-------|-------------------------------------------|
| `OuterProduct`    | X = AᵀB / L, flattened                      | M·N   | Lin et al. 2015, arXiv 1504.07889         |
| `HadamardProduct` | mean over locations of (U a) ∘ (V b)        | d     | Kim et al. 2017, arXiv 1610.04325         |
| `MeanSquare`      | mean over locations of (U a) ∘ (U a)        | d     | Kong and Fowlkes 2017, arXiv 1611.05109   |
| `SignedSums`      | ‖U₊ᵀA‖² - ‖U₋ᵀA‖² of each class, from those | k     | the same                                  |
| `TensorSketch`    | mean over locations of (C₁ a) * (C₂ b)      | d     | Gao et al. 2016, arXiv 1511.06062, alg. 2 |
| `SignedSqrt`      | x / √(|x| + ε)                              | same  | Perronnin et al. 2010; Lin et al. 2015    |
| `L2Normalize`     | s · x / ‖x‖                                 | same  | Lin et al. 2015                           |

The projections U and V are ordinary 1×1 convolutions, so that every runtime runs them. Learned, they make the Hadamard
form; drawn once from `RandomSigns` and frozen, they make it the Random Maclaurin form (Gao et al. 2016, alg. 1).

A sketch z of d numbers keeps the inner products of the outer products: M·N/d · E⟨z, z'⟩ = ⟨X, X'⟩ over the draws of its
signs and hashes. The papers put that factor into the sketch; here an entry of z is as large as one of X (in the root
mean square), so that the tails see numbers of order one at every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

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


def mean_square(x: Any) -> Any:
    """Pools a projected map: the mean over locations of x ∘ x.

    With x = Uᵀa this is ‖uⱼᵀA‖² / L = uⱼᵀ X uⱼ for every column of U, and X is never formed.

    Args:
        x: `(n, h, w, d)` float.

    Returns:
        `(n, d)`.
    """
    return tf.reduce_mean(x * x, axis=(1, 2))  # tf.square would stay in float after quantization


def signed_sums(squares: Any, classes: int) -> Any:
    """Each class's quadratic form from its pooled squares: the sum of the first half minus the sum of the second.

    With squares uⱼᵀ X uⱼ this is ⟨W, X⟩ for the symmetric W = U₊U₊ᵀ - U₋U₋ᵀ of every class (Kong and Fowlkes 2017).
    One matrix product, which TFLite runs as a fully connected layer of ±1.

    Args:
        squares: `(n, classes·r)` float, class by class, r even.
        classes: Number of products.

    Returns:
        `(n, classes)`.
    """
    half = squares.shape[-1] // classes // 2
    signs = np.repeat([1.0, -1.0], half)[:, np.newaxis]
    return tf.matmul(squares, tf.constant(np.kron(np.eye(classes), signs), squares.dtype))


def count_sketch(x: Any, buckets: Any, signs: Any, size: int) -> Any:
    """Adds every channel, with its sign, to its bucket: (C x)ⱼ = Σ of sᵢ xᵢ over the channels i with hᵢ = j.

    Args:
        x: `(n, h, w, M)` float.
        buckets: `(M,)` int32 h, below `size`.
        signs: `(M,)` float s.
        size: Number of buckets d.

    Returns:
        `(n, h, w, d)`.
    """
    return tf.tensordot(x, tf.one_hot(buckets, size, dtype=x.dtype) * tf.cast(signs, x.dtype)[:, tf.newaxis], 1)


def tensor_sketch(u: Any, v: Any) -> Any:
    """Pools two count sketches: the mean over locations of their circular convolution, FFT⁻¹(FFT(u) ∘ FFT(v)).

    The convolution of two count sketches is the count sketch of the outer product with the hash h₁(i) + h₂(j) mod d and
    the sign s₁(i) s₂(j) (Pham and Pagh 2013; Gao et al. 2016, alg. 2).

    Args:
        u: `(n, h, w, d)` float, d even.
        v: `(n, h, w, d)` float.

    Returns:
        `(n, d)`.
    """
    product = tf.signal.rfft(u) * tf.signal.rfft(v)
    real, imaginary = (tf.reduce_mean(part(product), axis=(1, 2)) for part in (tf.math.real, tf.math.imag))
    return _inverse_rfft(real, imaginary, u.shape[-1])


def _inverse_rfft(real: Any, imaginary: Any, size: int) -> Any:
    """What tf.signal.irfft computes, from forward transforms alone: TFLite has no other.

    x[n] = (c[n] + s[n]) / d and x[d - n] = (c[n] - s[n]) / d with c = Re FFT(w ∘ real), s = Im FFT(w ∘ imaginary); the
    weights w count the frequencies that stand for two.
    """
    weights = tf.constant([1.0, *[2.0] * (size // 2 - 1), 1.0], real.dtype)
    cosines = tf.math.real(tf.signal.rfft(real * weights, [size]))
    sines = tf.math.imag(tf.signal.rfft(imaginary * weights, [size]))
    mirrored = tf.reverse((cosines - sines)[:, 1:-1], axis=[1])
    return tf.concat([cosines + sines, mirrored], axis=1) / size


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
class MeanSquare(keras.layers.Layer):  # type: ignore[misc]
    """`mean_square` as a layer: `(n, h, w, d)` to `(n, d)`."""

    def call(self, inputs: Any) -> Any:
        """Pools the projected map."""
        return mean_square(inputs)


@_register
class SignedSums(keras.layers.Layer):  # type: ignore[misc]
    """`signed_sums` and a learned bias as a layer: `(n, classes·r)` to `(n, classes)` logits.

    Args:
        classes: Number of products.
    """

    def __init__(self, classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = classes

    def build(self, input_shape: Any) -> None:
        """Makes the `(classes,)` bias."""
        self.bias = self.add_weight(name="bias", shape=(self.classes,), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Evaluates every class's quadratic form."""
        return signed_sums(inputs, self.classes) + self.bias

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, for saving."""
        return {**super().get_config(), "classes": self.classes}


@_register
class TensorSketch(keras.layers.Layer):  # type: ignore[misc]
    """`tensor_sketch` of the count sketches of two maps: `[(n, h, w, M), (n, h, w, N)]` to `(n, size)`.

    Hashes and signs are drawn once and saved with the weights, so that no later random generator can change them.

    Args:
        size: Length of the descriptor, even.
        seed: Of hashes and signs.
    """

    def __init__(self, size: int, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size, self.seed = size, seed

    def build(self, input_shape: Any) -> None:
        """Draws hash and sign of every channel of both maps."""
        random = np.random.default_rng(self.seed)
        self.hashes = [self._drawn(f"hashes_{i}", random, shape[-1]) for i, shape in enumerate(input_shape)]
        super().build(input_shape)

    def _drawn(self, name: str, random: np.random.Generator, channels: int) -> Any:
        """`(channels,)` int32: the bucket plus one, negative where the sign is."""
        values = random.integers(1, self.size + 1, channels) * random.choice([-1, 1], channels)
        initializer = keras.initializers.Constant(values)
        return self.add_weight(name=name, shape=(channels,), dtype="int32", initializer=initializer, trainable=False)

    def call(self, inputs: list[Any]) -> Any:
        """Sketches and pools the two maps."""
        return tensor_sketch(*(self._sketch(x, hashes) for x, hashes in zip(inputs, self.hashes, strict=True)))

    def _sketch(self, x: Any, hashes: Any) -> Any:
        scale = self.size**0.25 / x.shape[-1] ** 0.5
        return count_sketch(x, tf.abs(hashes) - 1, tf.cast(tf.sign(hashes), x.dtype) * scale, self.size)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, for saving."""
        return {**super().get_config(), "size": self.size, "seed": self.seed}


@_register
class RandomSigns(keras.initializers.Initializer):  # type: ignore[misc]
    """Kernels `(..., M, d)` of ±1/√M: every output is of the size of an input.

    Args:
        seed: Anything that NumPy takes as a seed.
    """

    def __init__(self, seed: list[int]) -> None:
        self.seed = seed

    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> Any:
        """Draws a kernel, the same in every process."""
        signs = np.random.default_rng(self.seed).choice([-1.0, 1.0], tuple(shape))
        return tf.constant(signs / np.sqrt(shape[-2]), dtype or tf.float32)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, for saving."""
        return {"seed": self.seed}


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
    """Adds one learned number per channel: what is left of a batch normalization whose scale was folded away."""

    def build(self, input_shape: Any) -> None:
        """Makes the `(channels,)` bias."""
        self.bias = self.add_weight(name="bias", shape=(input_shape[-1],), initializer="zeros")

    def call(self, inputs: Any) -> Any:
        """Adds the bias."""
        return inputs + self.bias


def projection(size: int, name: str, initializer: Any = "glorot_uniform", *, trainable: bool = True) -> Any:
    """A 1×1 convolution without bias, from the channels of a map to `size` channels."""
    return keras.layers.Conv2D(size, 1, use_bias=False, kernel_initializer=initializer, trainable=trainable, name=name)


def two_projections(maps: Sequence[Any], size: int) -> list[Any]:
    """Two learned projections, `project_u` of the first map and `project_v` of the last."""
    u, v = (projection(size, f"project_{side}") for side in "uv")
    return [u(maps[0]), v(maps[-1])]


def shared_projection(maps: Sequence[Any], size: int) -> Any:
    """One projection of the maps side by side, as a sum of theirs: joined first, int8 would give both one range.

    Its layer is `project`; of two maps the layers are `project_a`, `project_b` and their sum `project`.
    """
    channels = sum(each.shape[-1] for each in maps)
    names = ["project"] if len(maps) == 1 else ["project_a", "project_b"]
    parts = []
    for name, each in zip(names, maps, strict=True):
        unit = keras.initializers.VarianceScaling(each.shape[-1] / channels, "fan_in", "untruncated_normal")
        parts.append(projection(size, name, unit)(each))
    return parts[0] if len(parts) == 1 else keras.layers.Add(name="project")(parts)
