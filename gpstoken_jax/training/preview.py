"""A look at held-out images in the middle of a run."""

import jax
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from gpstoken_jax import data
from gpstoken_jax.model.gpstoken import GPSToken
from gpstoken_jax.partition.images import partition_images
from gpstoken_jax.runtime.compiling import announced
from gpstoken_jax.tokens import visualize
from gpstoken_jax.training.state import TrainState
from gpstoken_jax.training.step import one_copy


class Preview:
    """Reconstructs the first few held-out images; they are read at the first call."""

    def __init__(self, model: GPSToken, config: ConfigDict, images: data.DataSet):
        self._config, self._data = config, images
        self._images = None

        def reconstruct(params, images):
            geometry, boxes = partition_images(images, **config.partition)
            tokens = model.apply(params, images, geometry, boxes, method="encode")
            return tokens, model.apply(params, tokens, method="decode")

        images = lambda params, images: images  # noqa: E731
        self._reconstruct = announced(jax.jit(reconstruct), "the preview", images)

    def __call__(self, state: TrainState) -> UInt8[np.ndarray, "h w 3"]:
        """One row an image: original, its refined Gaussians, the EMA weights' reconstruction."""
        if self._images is None:
            self._images = self._read()
        params = one_copy(state.ema_params)
        tokens, reconstructions = jax.device_get(self._reconstruct(params, self._images))
        return visualize.image_grid(
            [
                [image, visualize.draw_gaussians(image, geometry), reconstruction]
                for image, geometry, reconstruction in zip(
                    self._images, tokens[..., :5], reconstructions, strict=True
                )
            ]
        )

    def _read(self) -> np.ndarray:
        source = self._data.open(self._config.data.eval_split)
        count = min(self._config.log.images, len(source))
        batches = data.eval_batches(source, self._config.data, self._config.model.image_size, count)
        return next(iter(batches))["image"]
