"""Statistics of image features on disk, as the common FID tools write them.

One `.npz` with `mu` and `sigma` (pytorch-fid, clean-fid) and, for the sFID, `mu_s` and `sigma_s`
(the evaluation suite of "Diffusion Models Beat GANs", whose reference files hold all four). What is
written here also has `count`, the number of images, `features`, what the numbers are of, and a seal
in the archive's comment; other tools pass over all three.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from gpstoken_jax.metrics.frechet import Gaussian
from gpstoken_jax.runtime.files import check_sealed_file, reading, write_npz
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.files import read_npz

_MARKS, _TAIL = (b"gpstoken-", b":sha256:"), 256  # of a seal, which is at the end of a file
# Our names of features, the endings of their keys, and how many numbers they are.
_ENDINGS = {"fid": "", "sfid": "_s", "frechet_vgg16": ""}
_DIMENSIONS = {"fid": 2048, "sfid": 2023, "frechet_vgg16": 512}
_ASYMMETRY = 1e-3  # of float32, over the largest value


class StatisticsError(ValueError):
    """A file does not hold the statistics that it should; the message names it."""


def save_statistics(
    path: str | Path,
    gaussians: Mapping[str, Gaussian],
    images: UInt8[np.ndarray, "n h w 3"] | None = None,
) -> None:
    """Writes statistics by name: "fid" and "sfid" (one file holds both), or "frechet_vgg16".

    With images, in ``arr_0``, it is a batch for the suite named above. The file appears whole or
    not at all. Raises ValueError for other names, or VGG16's with others.
    """
    if not gaussians or gaussians.keys() - _ENDINGS or {"fid", "frechet_vgg16"} <= gaussians.keys():
        raise ValueError(f"one file holds fid and sfid, or frechet_vgg16, not {list(gaussians)}.")
    arrays = {"features": np.array(",".join(gaussians))}
    arrays |= {} if images is None else {"arr_0": images}
    for name, gaussian in gaussians.items():
        arrays |= {
            f"mu{_ENDINGS[name]}": gaussian.mean,
            f"sigma{_ENDINGS[name]}": gaussian.covariance,
        }
        if gaussian.count is not None:
            arrays["count"] = np.array(gaussian.count)
    write_npz(path, arrays)


def load_statistics(path: str | Path, name: str) -> Gaussian:
    """Reads the statistics of one kind of features: "fid", "sfid" or "frechet_vgg16".

    Nothing in the file is executed, and no more of it is unpacked than such statistics are large.

    Raises:
      FileNotFoundError: if there is no such file.
      StatisticsError: for a file that does not hold them.
      DamagedFileError: for one that was written here and has changed since.
      OSError: if it cannot be read.
    """
    path, ending = Path(path), _ENDINGS[name]
    wanted = (f"mu{ending}", f"sigma{ending}", "count", "features")
    if not path.is_file():
        raise FileNotFoundError(f"there is no statistics file {path}")
    if path.stat().st_size:
        with path.open("rb") as file:
            file.seek(-min(path.stat().st_size, _TAIL), os.SEEK_END)
            tail = file.read()
        # A changed byte can spoil one of the seal's two marks, not both.
        check_sealed_file(path, required=any(mark in tail for mark in _MARKS))
    try:
        stored = read_npz(path, wanted)
    except WeightsError as error:
        raise StatisticsError(str(error)) from error
    with reading(path, "an .npz file of statistics", StatisticsError):
        return _checked(path, name, stored)


def _checked(path: Path, name: str, stored: Mapping[str, np.ndarray]) -> Gaussian:
    keys, size = (f"mu{_ENDINGS[name]}", f"sigma{_ENDINGS[name]}"), _DIMENSIONS[name]
    missing = [key for key in keys if key not in stored]
    if missing:
        raise StatisticsError(f"{path} has no {' and no '.join(missing)}, needed for {name}")
    if "features" in stored and name not in str(stored["features"]).split(","):
        raise StatisticsError(f"{path} holds statistics of {stored['features']}, not of {name}")
    if any(stored[key].dtype.kind != "f" for key in keys):
        raise StatisticsError(f"{path}: {' and '.join(keys)} are not all floating-point numbers")
    mean, covariance = (stored[key].astype(np.float64) for key in keys)
    if mean.shape != (size,) or covariance.shape != (size, size):
        raise StatisticsError(
            f"{path}: {name} has {size} features, but {keys[0]} is {mean.shape} and {keys[1]} "
            f"{covariance.shape}; they come from another network"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise StatisticsError(f"{path}: {' and '.join(keys)} are not all finite: save them again")
    error = np.abs(covariance - covariance.T).max()
    if (np.diag(covariance) < 0).any() or error > _ASYMMETRY * np.abs(covariance).max():
        raise StatisticsError(f"{path}: {keys[1]} is no covariance: save it again")
    count = stored.get("count")
    if count is not None and (count.shape != () or count.dtype.kind not in "iu"):
        raise StatisticsError(f"{path}: count is no number of images")
    return Gaussian(mean, covariance, None if count is None else int(count))
