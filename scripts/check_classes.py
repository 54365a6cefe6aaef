"""Finds the classes of generated images by their likeness to real ones (VGG16's features).

    python scripts/check_classes.py --real=DIR --images=held_out=DIR,samples=runs/made --output=FILE

Every directory has a folder of images for each class. --real is what the classifier knows; each set
of --images is checked against it: real held-out images say how well the classifier works at all.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpstoken_jax import data
from gpstoken_jax.data.folder import NO_LABEL
from gpstoken_jax.data.sources import open_folder
from gpstoken_jax.features.vgg import vgg_features
from gpstoken_jax.metrics.class_check import check_classes
from gpstoken_jax.programs import cli
from gpstoken_jax.runtime.progress import Progress
from gpstoken_jax.weights.networks import load_lpips

REAL = flags.DEFINE_string("real", None, "Images that the classifier knows.", required=True)
IMAGES = flags.DEFINE_list("images", None, "Sets to check, NAME=DIR.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Where to write the figures, a JSON file.")
SIZE = flags.DEFINE_integer("size", 64, "Side that images are brought to.", lower_bound=32)

_BATCH = 32


def main() -> None:
    """Writes the share of images whose class is found again."""
    real = Features(REAL.value)
    real.compute()
    figures = {}
    for name, folder in map(split, IMAGES.value):
        images = Features(folder)
        images.compute()
        wanted = np.array([real.names.index(name) for name in images.classes_among(real.names)])
        check = check_classes(real.features, real.labels, images.features, wanted, real.names)
        figures[name] = check.to_json()
        by_class = "  ".join(f"{k} {v:.0%}" for k, v in figures[name]["by_class"].items())
        print(
            f"{name}: the class of {check.accuracy:.1%} of {len(wanted)} images is found "
            f"(chance {check.chance:.1%}): {by_class}"
        )
    if OUTPUT.value:
        Path(OUTPUT.value).write_text(json.dumps(figures, indent=2) + "\n")


def split(argument: str) -> tuple[str, str]:
    """NAME=DIR in two.

    Raises:
      ValueError: if it is nothing of the kind.
    """
    name, separator, folder = argument.partition("=")
    if not separator:
        raise ValueError(f"--images takes NAME=DIR, not {argument!r}")
    return name, folder


class Features:
    """Features and labels of the images of a folder; images outside class folders are left out."""

    def __init__(self, folder: str):
        self._source = open_folder(folder)
        self._folder = folder
        self.names = self._source.label_names
        self.features, self.labels = np.zeros((0, 1)), np.zeros(0, int)

    def compute(self) -> None:
        """Reads every image once.

        Raises:
          ValueError: if there is none with a class.
        """
        config = ConfigDict({"num_threads": 0, "num_workers": 0, "prefetch": 2})
        weights = load_lpips()
        apply = jax.jit(vgg_features)
        features, labels, progress = [], [], Progress(len(self._source))
        for batch in data.eval_batches(self._source, config, SIZE.value, _BATCH):
            kept = batch["mask"] & (batch["label"] != NO_LABEL)
            features.append(np.asarray(apply(weights, batch["image"]))[kept])
            labels.append(batch["label"][kept])
            progress.advance(sum(name != "" for name in batch["name"]))
        self.features, self.labels = np.concatenate(features), np.concatenate(labels)
        if not len(self.labels):
            raise ValueError(f"{self._folder} has no image in a folder of a class")

    def classes_among(self, names: tuple[str, ...]) -> list[str]:
        """Class name of each image.

        Raises:
          ValueError: for a class that is not among ``names``.
        """
        for name in {self.names[label] for label in self.labels} - set(names):
            raise ValueError(f"{self._folder} has a class {name!r}; {REAL.value} has none")
        return [self.names[label] for label in self.labels]


if __name__ == "__main__":
    cli.run(main)
