"""Inception-v3 as the Fréchet Inception distance knows it.

The network of Szegedy et al. 2016 ("Rethinking the Inception Architecture for Computer Vision") in
the version of TensorFlow's 2015-12-05 graph, which differs from torchvision's: averages do not
count the padding, the last block pools by maximum, and there are 1008 classes. Submodules carry
the names of its PyTorch port (pytorch-fid, torch-fidelity).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

NETWORK_SIDE = 299
POOL_FEATURES = 2048
_NORM_EPSILON = 1e-3
_SPATIAL_CHANNELS = 7

# A layer: name, width, kernel (rows, columns; one number for a square), stride.
Layer = tuple


@struct.dataclass
class InceptionOutputs:
    """Outputs of the network for each image.

    pool: mean of the last map over positions, the features of the FID (`pool_3:0` of the graph)
    spatial: the first 7 channels of the first branch of Mixed_6d (`mixed_6/conv:0` of the graph,
      whose blocks are counted mixed, mixed_1, ... mixed_10), the features of the sFID
    logits: `pool` times the classifier's weights, without its bias, as the Inception score has it
    """

    pool: Float[Array, "b 2048"]
    spatial: Float[Array, "b 17 17 7"]
    logits: Float[Array, "b 1008"]


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU; padded to keep the size unless it strides."""

    width: int
    kernel: tuple[int, int]
    stride: int = 1
    padded: bool = True
    train: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b m n d"]:
        x = nn.Conv(
            self.width,
            self.kernel,
            strides=self.stride,
            padding="SAME" if self.padded and self.stride == 1 else "VALID",
            use_bias=False,
            dtype=self.dtype,
            precision=jax.lax.Precision.HIGHEST if self.dtype == jnp.float32 else None,
            name="conv",
        )(x)
        x = nn.BatchNorm(
            use_running_average=not self.train,
            epsilon=_NORM_EPSILON,
            dtype=self.dtype,
            use_fast_variance=False,
            name="bn",
        )(x)
        return nn.relu(x)


class _Layers(nn.Module):
    """Convolutions by name, shared by the blocks."""

    train: bool = False
    dtype: jnp.dtype = jnp.float32

    def chain(self, x: jax.Array, *layers: Layer, padded: bool = True) -> jax.Array:
        for name, width, kernel, *stride in layers:
            sides = (kernel, kernel) if isinstance(kernel, int) else kernel
            x = ConvNorm(width, sides, *stride, padded=padded, **self._how(), name=name)(x)
        return x

    def _how(self) -> dict:
        return {"train": self.train, "dtype": self.dtype}


def _average(x: jax.Array) -> jax.Array:
    return nn.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)


def _maximum(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), strides=(1, 1), padding="SAME")


def _shrink(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2))


def _join(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)


class Mixed35(_Layers):
    """A block on the 35 x 35 map (Mixed_5b to 5d)."""

    pool_width: int = 64

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        double = [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)]
        return _join(
            self.chain(x, ("branch1x1", 64, 1)),
            self.chain(x, ("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
            self.chain(x, *double),
            self.chain(_average(x), ("branch_pool", self.pool_width, 1)),
        )


class Shrink35(_Layers):
    """From 35 x 35 to 17 x 17 (Mixed_6a)."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b m n d"]:
        double = [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3)]
        return _join(
            self.chain(x, ("branch3x3", 384, 3, 2)),
            self.chain(x, *double, ("branch3x3dbl_3", 96, 3, 2)),
            _shrink(x),
        )


class Mixed17(_Layers):
    """A block on the 17 x 17 map (Mixed_6b to 6e); its first branch has 192 channels."""

    inner_width: int = 128

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        width, across, down = self.inner_width, (1, 7), (7, 1)
        single = [("branch7x7_1", width, 1), ("branch7x7_2", width, across)]
        double = [
            ("branch7x7dbl_1", width, 1),
            ("branch7x7dbl_2", width, down),
            ("branch7x7dbl_3", width, across),
            ("branch7x7dbl_4", width, down),
        ]
        return _join(
            self.chain(x, ("branch1x1", 192, 1)),
            self.chain(x, *single, ("branch7x7_3", 192, down)),
            self.chain(x, *double, ("branch7x7dbl_5", 192, across)),
            self.chain(_average(x), ("branch_pool", 192, 1)),
        )


class Shrink17(_Layers):
    """From 17 x 17 to 8 x 8 (Mixed_7a)."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b m n d"]:
        wide = [("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7))]
        wide += [("branch7x7x3_3", 192, (7, 1)), ("branch7x7x3_4", 192, 3, 2)]
        return _join(
            self.chain(x, ("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)),
            self.chain(x, *wide),
            _shrink(x),
        )


class Mixed8(_Layers):
    """A block on the 8 x 8 map (Mixed_7b, 7c), two of whose branches fork."""

    pool_by_maximum: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        single = self.chain(x, ("branch3x3_1", 384, 1))
        double = self.chain(x, ("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3))
        pooled = _maximum(x) if self.pool_by_maximum else _average(x)
        return _join(
            self.chain(x, ("branch1x1", 320, 1)),
            self.chain(single, ("branch3x3_2a", 384, (1, 3))),
            self.chain(single, ("branch3x3_2b", 384, (3, 1))),
            self.chain(double, ("branch3x3dbl_3a", 384, (1, 3))),
            self.chain(double, ("branch3x3dbl_3b", 384, (3, 1))),
            self.chain(pooled, ("branch_pool", 192, 1)),
        )


class InceptionV3(_Layers):
    """Images of 299 x 299 around [-1, 1] to `InceptionOutputs`.

    train: normalise by the statistics of the batch instead of the stored ones.
    dtype: of the computation; the outputs are float32.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b 299 299 3"]) -> InceptionOutputs:
        how = self._how()
        x = self.chain(x, ("Conv2d_1a_3x3", 32, 3, 2))
        x = self.chain(x, ("Conv2d_2a_3x3", 32, 3), padded=False)
        x = _shrink(self.chain(x, ("Conv2d_2b_3x3", 64, 3)))
        x = self.chain(x, ("Conv2d_3b_1x1", 80, 1), ("Conv2d_4a_3x3", 192, 3), padded=False)
        x = _shrink(x)
        for name, width in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = Mixed35(pool_width=width, **how, name=name)(x)
        x = Shrink35(**how, name="Mixed_6a")(x)
        x = Mixed17(inner_width=128, **how, name="Mixed_6b")(x)
        x = Mixed17(inner_width=160, **how, name="Mixed_6c")(x)
        x = Mixed17(inner_width=160, **how, name="Mixed_6d")(x)
        spatial = x[..., :_SPATIAL_CHANNELS]
        x = Mixed17(inner_width=192, **how, name="Mixed_6e")(x)
        x = Shrink17(**how, name="Mixed_7a")(x)
        x = Mixed8(**how, name="Mixed_7b")(x)
        x = Mixed8(pool_by_maximum=True, **how, name="Mixed_7c")(x)
        pool = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return InceptionOutputs(pool, spatial.astype(jnp.float32), self._logits(pool))

    def _logits(self, pool: Float[Array, "b 2048"]) -> Float[Array, "b 1008"]:
        classifier = nn.Dense(1008, precision=jax.lax.Precision.HIGHEST, name="fc")
        logits = classifier(pool)
        return logits - classifier.variables["params"]["bias"]
