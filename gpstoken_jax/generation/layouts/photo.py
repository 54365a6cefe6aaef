"""The layout of a photo, for every image that is made: someone's layout with another texture."""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import PRNGKeyArray
from ml_collections import ConfigDict

from gpstoken_jax.data import images, resize_and_crop, transforms
from gpstoken_jax.generation.layouts.sampler import Geometry, Labels
from gpstoken_jax.partition import partition_images
from gpstoken_jax.runtime.checkpoint import params_checksum


class PhotoSampler:
    """A ``LayoutSampler`` that always gives the partition of one photo, whatever the class."""

    label_names: tuple[str, ...] = ()

    def __init__(
        self,
        path: str | Path,
        image_size: int,
        num_tokens: int,
        partition: ConfigDict,
        resize: str = "antialias",
    ):
        """Partitions the photo.

        Args:
          path: the photo; its short side is resized to ``image_size``, then its centre cut.
          image_size: side of the tokenizer's images.
          num_tokens: L.
          resize: how, see ``data.resize_and_crop``.
          partition: ``weight`` and ``min_size`` of ``partition_images``.

        Raises:
          ValueError: if it cannot be read as an image, or has no room for so many tokens.
          OSError: if it is not there.
        """
        pixels = images.decode(images.read_bytes(Path(path).expanduser())).pixels
        pixels = resize_and_crop(pixels, image_size, resize=resize)
        image = transforms.to_unit_range(pixels)[None]
        how = {"weight": partition.weight, "min_size": partition.min_size}
        geometry, _ = jax.jit(lambda image: partition_images(image, num_tokens, **how))(image)
        self.num_tokens, self.image_size = num_tokens, image_size
        self.description = f"that of {path}"
        self._geometry = np.asarray(geometry, np.float32)
        self.fingerprint = f"{params_checksum(self._geometry):08x}"

    def sample(self, keys: PRNGKeyArray, labels: Labels, numbers: Labels | None = None) -> Geometry:
        """The same layout for every key."""
        return self._geometry.repeat(len(labels), axis=0)

    def check(self, label: int, number: int) -> None:
        """Finds nothing wrong: there is a layout for every image."""
