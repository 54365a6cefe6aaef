"""References that samples and reconstructions are compared with: saved statistics, or images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gpstoken_jax.data.archive import ArchiveSource, open_archive
from gpstoken_jax.data.loader import ReadAhead
from gpstoken_jax.data.selected import SampleBatches
from gpstoken_jax.data.sources import FolderSource, open_folder
from gpstoken_jax.evaluation.measurement import Evaluator
from gpstoken_jax.evaluation.methods import GIVEN, given_images
from gpstoken_jax.metrics.frechet import FeatureStatistics, Gaussian
from gpstoken_jax.runtime.manifest import MANIFEST, read_manifest
from gpstoken_jax.runtime.progress import Progress
from gpstoken_jax.runtime.text import say
from gpstoken_jax.weights.feature_networks import CLASSES, FeatureNetwork, load_reference
from gpstoken_jax.weights.statistics import StatisticsError

_BATCH = 16


@dataclass(frozen=True)
class Reference:
    """A reference.

    Attributes:
      name: where it is from.
      statistics: by feature set.
      features: of its images, [N, D] of the network's first set; None if nobody asked.
    """

    name: str
    statistics: Mapping[str, Gaussian]
    features: Float[np.ndarray, "n d"] | None = None


def read_reference(
    path: Path,
    network: FeatureNetwork,
    *,
    with_features: bool = False,
    size: tuple[int, int] | None = None,
) -> Reference:
    """Reads saved statistics, or takes those of images.

    Args:
      path: an ``.npz`` file with ``mu`` and ``sigma``, with images ``arr_0``, or with both as the
        reference batches of "Diffusion Models Beat GANs" have them; a folder of images; or the
        directory of ``gpstoken generate``.
      network: whose features are compared.
      with_features: for precision and recall, which take images.
      size: (height, width) that the images of a folder are brought to, antialiased, their centre;
        if None they must have one size.

    Raises:
      FileNotFoundError, ValueError: if there is no such thing, or not of this network; or if there
        are no images and features are asked for.
    """
    statistics: dict[str, Gaussian] = {}
    if not path.is_dir():
        try:
            statistics = load_reference(path, network)
        except StatisticsError as error:
            try:
                open_archive(path)
            except (ValueError, OSError) as problem:
                if "arr_0 is" in str(problem):  # meant as images
                    raise StatisticsError(str(problem)) from error
                raise StatisticsError(f"{error}; or give a folder of images") from error
            say(f"{error}: they are taken of its images")
    if statistics and not with_features:
        return Reference(str(path), statistics)
    if not path.is_dir() and not has_images(path):
        raise ValueError(
            f"--precision_recall: {path} has statistics alone, no images (arr_0): give a folder of "
            "images, or a reference batch with them"
        )
    if not path.is_dir():
        size = None  # a file has images of one size, which is theirs
    try:
        measured, features = _measure(open_samples(path), network, size)
    except ValueError as error:
        advice = "; --resolution=SIDE cuts them all to it" if "pixels, not" in str(error) else ""
        raise ValueError(f"the reference {path}: {error}{advice}") from error
    return Reference(str(path), statistics or measured, features if with_features else None)


def open_samples(path: Path) -> FolderSource | ArchiveSource:
    """Images as they are: a folder, an ``.npz`` file, or a directory of ``gpstoken generate``.

    Of the last one, the overview ``grid.png`` is no sample.

    Raises:
      ValueError, OSError: if there are none, or the generator has not finished.
    """
    source = open_archive(path) if path.is_file() else open_folder(path)
    if (path / "generation.json").is_file():
        if (path / MANIFEST).is_file():
            read_manifest(path, "generated images")
        samples = tuple(file for file in source.files if file.name != "grid.png")
        source = replace(source, files=samples, description=f"{len(samples)} samples in {path}")
    return source


def has_images(path: Path) -> bool:
    """Tells whether an ``.npz`` file holds images."""
    try:
        open_archive(path)
    except (ValueError, OSError):
        return False
    return True


def _measure(
    source: FolderSource | ArchiveSource, network: FeatureNetwork, size: tuple[int, int] | None
) -> tuple[dict[str, Gaussian], Float[np.ndarray, "n d"]]:
    """Statistics of all feature sets of images, and the features of the first."""
    evaluator = Evaluator(
        given_images({}), lpips_weights=None, rounding="round", network=network, compared=False
    )
    reading = ReadAhead(), size or source[0].size, _BATCH
    batches = SampleBatches(source, *reading, range(len(source)), cut=size is not None)
    say(f"reference: {source.description}")
    progress, statistics, kept = Progress(len(source), label="reference  "), {}, []
    for batch in evaluator(batches):
        for name, of in batch.features.items():
            if name != CLASSES:
                rows = of[GIVEN]
                statistics.setdefault(name, FeatureStatistics(rows.shape[-1])).add(rows)
        kept.append(batch.features[network.sets[0]][GIVEN])
        progress.advance(batch.through)
    return {name: of.gaussian() for name, of in statistics.items()}, np.concatenate(kept)
