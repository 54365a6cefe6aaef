"""The result of a cell as a JSON file, and what is read back of it."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpstoken_jax.evaluation.baselines import COMPRESSED
from gpstoken_jax.evaluation.features import ORIGINAL, metric_name
from gpstoken_jax.evaluation.measurement import Measurement
from gpstoken_jax.evaluation.report.numbers import heading
from gpstoken_jax.evaluation.settings import Settings
from gpstoken_jax.metrics.frechet import few_samples_warning, frechet_distance
from gpstoken_jax.metrics.image import METRIC_DEFINITIONS
from gpstoken_jax.model.high_resolution import floored_std_warning

FILE_NAME = "metrics.json"
_FRECHET = "Fréchet distance between all reconstructions and"
DEFINITIONS = METRIC_DEFINITIONS | {
    "rfid": f"{_FRECHET} the originals in Inception-v3's pool features; lower is better",
    "fid": f"{_FRECHET} the reference statistics in Inception-v3's pool features",
    "sfid": "the same in Inception-v3's spatial features",
    "frechet_vgg16": f"{_FRECHET} the originals in VGG16's mean features; this is no FID",
    "bytes": "storage of an image: values at their size, or the mean size of the files",
}


@dataclass(frozen=True)
class CellResult:
    """A cell after the run.

    Attributes:
      name: of the cell.
      label: what a table calls the evaluated method.
      directory: where its files are.
      summary: of ``metrics.json``, without the images; None if it failed.
      error: why it failed.
      reused: whether it was there already.
    """

    name: str
    label: str
    directory: Path
    summary: dict[str, Any] | None = None
    error: str | None = None
    reused: bool = False


def summarise(measurement: Measurement, protocol: dict, settings: Settings) -> dict[str, Any]:
    """Means and distances by method, with the protocol and warnings."""
    distances, warnings = frechet_distances(measurement, settings)
    means = {
        method: _stored_bytes(method, protocol, settings) | values | distances.get(method, {})
        for method, values in measurement.means().items()
    }
    floored = dict(zip(measurement.names, measurement.values.get("floored_std", ()), strict=False))
    if warning := floored_std_warning(floored):
        warnings.append(warning)
    measured = {name for values in means.values() for name in values}
    return {
        "metrics": means,
        "protocol": {**protocol, "num_images": len(measurement)},
        "definitions": {name: text for name, text in DEFINITIONS.items() if name in measured},
        "warnings": warnings,
        "state_bytes": measurement.sizes(),
    }


def _stored_bytes(method: str, protocol: dict, settings: Settings) -> dict[str, float]:
    """What a method stores of an image, where that is a number of values."""
    values = protocol.get("values_per_image")
    if not values or method in COMPRESSED:
        return {}
    return {"bytes": float(values * settings.bytes_per_value)}


def frechet_distances(
    measurement: Measurement, settings: Settings
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Distances by method and name, and what is to be said of them."""
    distances: dict[str, dict[str, float]] = {}
    warnings: list[str] = []
    if len(measurement) < 2:
        return {}, ["no Fréchet distance: a covariance needs two images or more"]
    for feature_set, of in measurement.features.items():
        own = settings.reference is None
        if not own and feature_set not in settings.reference:
            warnings.append(f"{settings.reference_name} has no statistics for {feature_set}")
            continue
        reference = of[ORIGINAL].gaussian() if own else settings.reference[feature_set]
        name = metric_name(feature_set, to_own_originals=own)
        for method, statistics in of.items():
            if method != ORIGINAL:
                distance = frechet_distance(reference, statistics.gaussian())
                distances.setdefault(method, {})[name] = distance
        if text := few_samples_warning(reference, next(iter(of.values())).gaussian()):
            warnings.append(f"{heading(name)}: {text}")
    return distances, warnings


def write_result(path: Path, summary: dict[str, Any], images: Iterable[dict]) -> None:
    """Writes a JSON file, whole or not at all; the images, one a line, are never all in memory."""
    temporary = path.with_suffix(".tmp")
    head = json.dumps(summary, indent=2).removesuffix("\n}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(head + ',\n  "images": [')
        for i, image in enumerate(images):
            file.write(("," if i else "") + "\n    " + json.dumps(image))
        file.write("\n  ]\n}\n")
    os.replace(temporary, path)


def read_summary(path: Path) -> dict[str, Any] | None:
    """What ``write_result`` wrote, without the images; None if it is not there or not whole."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return {key: value for key, value in result.items() if key != "images"}
    except (OSError, ValueError, AttributeError):
        return None


def first_change(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """The first part of a protocol that is not what it was, in words; None if all is the same."""
    for key in {**new, **old}:
        if key != "num_images" and old.get(key) != new.get(key):
            return f"{key.replace('_', ' ')} was {old.get(key)} and is now {new.get(key)}"
    return None
