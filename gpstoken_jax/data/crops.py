"""Random crops, or mirror images, of the images of a source, as a source of their own."""

from dataclasses import dataclass, field

import numpy as np
from ml_collections import ConfigDict

from gpstoken_jax.data import transforms
from gpstoken_jax.data.examples import Example, ImageSource
from gpstoken_jax.data.loader import FittedImages
from gpstoken_jax.data.resize import resize_and_crop, resize_of


@dataclass(frozen=True)
class MirroredImages:
    """Each image of a source, brought to size, and its mirror image: numbers 2 i and 2 i + 1.

    Attributes:
      source: the images.
      image_size: (height, width).
      resize: see ``data.resize_and_crop``.
    """

    source: ImageSource
    image_size: tuple[int, int]
    resize: str

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.source.label_names

    @property
    def description(self) -> str:
        """The source and its mirror images, for people."""
        return f"{self.source.description}, each mirrored, too"

    def __len__(self) -> int:
        return 2 * len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index // 2]
        pixels = resize_and_crop(example.picture, self.image_size, resize=self.resize)
        pixels = pixels[:, ::-1] if index % 2 else pixels
        return Example(pixels, example.label, self.name(index), example.size)

    def name(self, index: int) -> str:
        """Name of the image; for its mirror image with ``#mirrored`` after it."""
        return self.source.name(index // 2) + "#mirrored" * (index % 2)

    def fingerprint(self, *, content: bool = False) -> str:
        """That of the images; the header of their tokens says that they are mirrored."""
        return f"{self.source.fingerprint(content=content)} mirrored"


@dataclass(frozen=True)
class RandomCrops:
    """``passes`` random crops of each image, cut and mirrored as training's; colours stay.

    Crop p of image i has number ``i * passes + p`` and hangs on that and the seed alone.

    Attributes:
      source: the images.
      config: a ``data`` section: crop, crop_scale, resize, flip, cache_mb.
      image_size: side of a crop.
      passes: crops an image.
      seed: decides them.
    """

    source: ImageSource
    config: ConfigDict
    image_size: int
    passes: int
    seed: int = 0
    _fitted: FittedImages = field(init=False, repr=False)

    def __post_init__(self):
        config = self.config
        transforms.check_crop(config.crop)
        side = transforms.working_side(self.image_size, config.crop, config.crop_scale)
        resize = resize_of(config)
        fitted = FittedImages(self.source, side, config.crop, resize, config.cache_mb)
        object.__setattr__(self, "_fitted", fitted)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.source.label_names

    @property
    def description(self) -> str:
        """The source and the crops, for people."""
        mirrored = ", mirrored or not" if self.config.flip else ""
        how = f"{self.passes} {self.config.crop} crops an image{mirrored}, seed {self.seed}"
        return f"{self.source.description}: {how}"

    def __len__(self) -> int:
        return self.passes * len(self.source)

    def __getitem__(self, index: int) -> Example:
        example, _ = self._fitted[index // self.passes]
        pixels = transforms.augment(
            example.picture,
            self.image_size,
            self.config.crop,
            self.config.crop_scale,
            self.config.flip,
            False,
            resize_of(self.config),
            np.random.default_rng([self.seed, index]),
        )
        return Example(pixels, example.label, self.name(index))

    def name(self, index: int) -> str:
        """Name of a crop: that of its image, `#` and the number of the pass."""
        return f"{self.source.name(index // self.passes)}#{index % self.passes}"

    def fingerprint(self, *, content: bool = False) -> str:
        """That of the images, with what decides the crops."""
        config = self.config
        how = (config.crop, tuple(config.crop_scale), config.flip, self.image_size)
        if (resize := resize_of(config)) != "antialias":
            how = (*how, resize)
        return f"{self.source.fingerprint(content=content)} {(self.passes, self.seed, *how)}"
