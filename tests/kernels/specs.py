"""Named realistic shapes of `splat`, shared by benchmarks and tests."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array


@dataclass(frozen=True)
class Spec:
    """B images of `tokens` tokens with `channels` features on a square map of `side` pixels.

    A token covers its share of the map: sigma is drawn around 2 / 3 of the half side of a square
    of one token's area, which is where the partition of an image starts it.
    """

    batch: int
    side: int
    tokens: int
    channels: int = 32

    @property
    def size(self) -> tuple[int, int]:
        return self.side, self.side

    def arguments(self, seed: int = 0) -> tuple[Array, Array, Array]:
        """Geometry, features and a cotangent."""
        rng = np.random.default_rng(seed)
        shape = (self.batch, self.tokens)
        sigma = 2 / 3 / np.sqrt(self.tokens)
        spread = np.exp(rng.normal(0.0, 0.5, (*shape, 2))) * sigma
        rho, mu = rng.uniform(-0.8, 0.8, (*shape, 1)), rng.uniform(-1, 1, (*shape, 2))
        features = rng.normal(size=(*shape, self.channels))
        cotangent = rng.normal(size=(self.batch, *self.size, self.channels))
        geometry = np.concatenate([spread, rho, mu], axis=-1)
        return tuple(jnp.asarray(a, jnp.float32) for a in (geometry, features, cotangent))


SPECS = {
    # The published models' maps: 64 x 64 with 64, 128 or 256 tokens.
    **{
        f"b{batch}_64x64_l{tokens}": Spec(batch, 64, tokens)
        for batch in (1, 16, 64)
        for tokens in (64, 128, 256)
    },
    # Larger images.
    "b1_128x128_l1024": Spec(1, 128, 1024),
    "b1_256x256_l4096": Spec(1, 256, 4096),
    # A small model trained on a CPU.
    "b16_32x32_l64_c16": Spec(16, 32, 64, 16),
    "b4_64x64_l256": Spec(4, 64, 256),
}
