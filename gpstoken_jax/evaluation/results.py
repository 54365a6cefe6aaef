"""The result of a cell: means, distances and warnings, as a JSON file and back."""

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpstoken_jax.evaluation.measurement import MADE, Measurement
from gpstoken_jax.evaluation.methods import split_name
from gpstoken_jax.evaluation.subjects import Settings
from gpstoken_jax.metrics.baselines import COMPRESSED
from gpstoken_jax.metrics.catalogue import METRICS, heading
from gpstoken_jax.metrics.frechet import few_samples_warning, frechet_distance
from gpstoken_jax.metrics.manifold import precision_recall
from gpstoken_jax.model.high_resolution import floored_std_warning
from gpstoken_jax.runtime.outputs import Output
from gpstoken_jax.weights.feature_networks import ORIGINAL, cover_names, distance_name

FILE_NAME = "metrics.json"
_IMAGES = '  "images": [\n'  # the line of the file before them

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class CellResult:
    """A cell after the run.

    Attributes:
      name: of the cell.
      label: name of the evaluated method in a table.
      directory: of its files, relative to that of the run; "" if it is the same.
      summary: of ``metrics.json``, without the images; None if it failed.
      error: reason of a failure.
      reused: whether it was there already.
    """

    name: str
    label: str
    directory: str = ""
    summary: dict[str, Any] | None = None
    error: str | None = None
    reused: bool = False

    def file(self, name: str) -> str:
        """Name of a file of this cell, relative to the run's directory."""
        return f"{self.directory}/{name}" if self.directory else name

    @property
    def protocol(self) -> dict[str, Any]:
        """Everything that its figures depend on."""
        return self.summary["protocol"]

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Means by method, the evaluated one first, then by metric."""
        return self.summary["metrics"]


def summarise(measurement: Measurement, protocol: dict, settings: Settings) -> dict[str, Any]:
    """Means and distances by method, with the protocol and warnings.

    Raises:
      ValueError: if no image could be read.
    """
    floored, count = {}, 0
    for row in measurement.rows():
        count += 1
        if row.get("floored_std"):
            floored[row["name"]] = row["floored_std"]
    if not count:
        raise ValueError(f"none of the images could be read: {measurement.unreadable.reasons}")
    distances, warnings = frechet_distances(measurement, count, settings)
    for method, scores in measurement.scores.items():
        if method != ORIGINAL:
            distances.setdefault(method, {})["inception_score"] = scores.score()
    means = {
        method: _stored_bytes(method, protocol) | values | distances.get(method, {})
        for method, values in measurement.means().items()
    }
    if settings.precision_recall:
        means[next(iter(means))] |= _cover(measurement, settings)
    if warning := floored_std_warning(floored):
        warnings.append(warning)
    measured = {name for values in means.values() for name in values}
    return {
        "metrics": means,
        "protocol": protocol | {"num_images": count},
        "definitions": {n: one.definition for n, one in METRICS.items() if n in measured},
        "warnings": warnings,
        "unreadable": measurement.unreadable.reasons,
        "num_unreadable": measurement.unreadable.count,
    }


def _stored_bytes(method: str, protocol: dict) -> dict[str, float]:
    """Storage of an image by a method that holds values."""
    values = protocol.get("values_per_image")
    if not values or method in COMPRESSED or split_name(method):
        return {}
    return {"bytes": float(values * protocol["bytes_per_value"])}


def frechet_distances(
    measurement: Measurement, num_images: int, settings: Settings
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Distances by method and name, and what is to be said of them."""
    distances: dict[str, dict[str, float]] = {}
    warnings: list[str] = []
    if num_images < 2:
        return {}, ["no Fréchet distance: a covariance needs two images or more"]
    for feature_set, of in measurement.features.items():
        gaussians = {method: statistics.gaussian() for method, statistics in of.items()}
        others = {True: gaussians.pop(ORIGINAL)} if ORIGINAL in gaussians else {}
        if settings.reference is not None:
            if feature_set in settings.reference.statistics:
                others[False] = settings.reference.statistics[feature_set]
            else:
                warnings.append(f"{settings.reference.name} has no statistics for {feature_set}")
        for to_originals, other in others.items():
            name = distance_name(feature_set, to_originals=to_originals)
            for method, gaussian in gaussians.items():
                distances.setdefault(method, {})[name] = frechet_distance(other, gaussian)
            if text := few_samples_warning(other, next(iter(gaussians.values()))):
                warnings.append(f"{heading(name)}: {text}")
    return distances, warnings


def _cover(measurement: Measurement, settings: Settings) -> dict[str, float]:
    """Precision and recall of the evaluated method: of the originals, else of the reference."""
    real = measurement.kept.get(f"features/{ORIGINAL}")
    if real is None:
        real = settings.reference.features
    names, made = cover_names(settings.network.sets[0]), measurement.kept[f"features/{MADE}"]
    return dict(zip(names, precision_recall(real, made), strict=True))


def write_result(output: Output, name: str, summary: dict[str, Any], rows: Iterable[dict]) -> None:
    """Writes a JSON file, whole or not at all; the images, one a line, are never all in memory."""
    head = json.dumps(summary, indent=2).removesuffix("\n}")
    with output.create(name) as file:
        file.write(f"{head},\n{_IMAGES}".encode())
        for i, row in enumerate(rows):
            image = {key: value for key, value in row.items() if key != "position"}
            file.write((("," if i else " ") + "   " + json.dumps(image) + "\n").encode())
        file.write(b"  ]\n}\n")


def read_summary(path: Path) -> dict[str, Any]:
    """Reads a file of ``write_result``, without the images.

    Raises:
      OSError, ValueError: if it is not there, or not what was written.
    """
    with path.open(encoding="utf-8") as file:
        head = "".join(itertools.takewhile(lambda line: line != _IMAGES, file))
    return json.loads(head.rstrip().removesuffix(",") + "}")


def first_change(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """The first part of a protocol that is not what it was, in words; None if all is the same."""
    for key in {**new, **old}:
        if key != "num_images" and old.get(key) != new.get(key):
            return f"{key.replace('_', ' ')} was {old.get(key)} and is now {new.get(key)}"
    return None
