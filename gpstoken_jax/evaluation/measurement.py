"""Measures images on all devices of this process, and keeps what was measured.

The numbers of every image go to a file at once, and of features only sums are kept, so memory does
not grow with the images. File and sums are also where a killed run goes on.
"""

import contextlib
import heapq
import io
import json
import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gpstoken_jax.data.loader import Unreadable
from gpstoken_jax.data.transforms import to_uint8
from gpstoken_jax.features.lpips import LPIPSWeights, lpips
from gpstoken_jax.metrics.frechet import FeatureMoments, FeatureStatistics
from gpstoken_jax.metrics.image import Rounding, image_metrics, local_psnr, to_unit_range
from gpstoken_jax.metrics.inception_score import ClassScores
from gpstoken_jax.runtime.appended import AppendedFile, AppendedRows, read_rows
from gpstoken_jax.runtime.devices import map_over_devices, pad_and_shard
from gpstoken_jax.runtime.files import DamagedFileError, check_seal, write_npz
from gpstoken_jax.weights.feature_networks import CLASSES, ORIGINAL, ApplyNetwork, FeatureNetwork

PROGRESS = ".gpstoken-progress"
_FILES = ("rows-*.jsonl", "state-*.npz", "kept-*.bin")
_SCORES = ("counts", "probabilities", "negentropies")
_SAVING_SHARE = 20  # between two savings, at least so many times the time that one takes
MADE = "made"  # of what is kept: by the evaluated method, whatever it is called
Statistics = dict[str, dict[str, FeatureStatistics]]


class Reconstruction(NamedTuple):
    """A batch as a method reconstructs it, [devices, images, ...].

    Attributes:
      images: in [-1, 1].
      tokens: on a tokenizer's way ``initial``, ``refined`` and ``feature_map``; {} for others.
      values: further numbers of every image, by name; a baseline's stand beside its metrics.
    """

    images: Float[Array, "d b h w 3"]
    tokens: Mapping[str, Array]
    values: Mapping[str, Float[Array, "d b"]]


class Outcome(NamedTuple):
    """One image as a method reconstructs it.

    Attributes:
      reconstruction: in [-1, 1].
      metrics: of it; with a focus also ``psnr_inside`` and ``psnr_outside`` it.
      tokens: ``initial`` and ``refined`` geometry [L, 5] in coordinates of the whole image and the
        ``feature_map`` that they draw; {} for methods without tokens.
    """

    reconstruction: Float[np.ndarray, "h w 3"]
    metrics: dict[str, float]
    tokens: dict[str, np.ndarray]


class Methods(Protocol):
    """Reconstructs a batch in several ways; the first is the one that is evaluated."""

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Reconstruction]:
        """Reconstructs a batch by each method."""


@dataclass(frozen=True)
class BatchResult:
    """Results of a batch: numbers on the host, pictures on the devices.

    Attributes:
      names, positions: of the images that were read, as and where their source has them.
      metrics: by method, then by name, one number an image.
      values: further numbers of the first method, one an image.
      features: by feature set, then by method or ``ORIGINAL``, [images, dimensions].
      kept: arrays of the images that are to be kept, by name.
      through: how many images of the source this batch takes along, with those not readable.
    """

    names: list[str]
    positions: Int[np.ndarray, " n"]
    metrics: dict[str, dict[str, Float[np.ndarray, " n"]]]
    values: dict[str, Float[np.ndarray, " n"]]
    features: dict[str, dict[str, Float[np.ndarray, "n d"]]]
    kept: dict[str, np.ndarray]
    through: int
    _rows: np.ndarray
    _images: Float[np.ndarray, "d b h w 3"]
    _reconstructions: dict[str, Reconstruction]

    def image(self, i: int) -> tuple[Float[np.ndarray, "h w 3"], dict[str, Outcome]]:
        """An image and what every method made of it; only now pictures come from the devices."""
        device, row = divmod(int(self._rows[i]), self._images.shape[1])

        def pick(tree: Any) -> Any:
            return jax.tree.map(lambda x: np.asarray(x[device, row]), tree)

        return self._images[device, row], {
            method: Outcome(
                pick(made.images),
                {name: float(values[i]) for name, values in self.metrics[method].items()},
                pick(dict(made.tokens)),
            )
            for method, made in self._reconstructions.items()
        }


class Evaluator:
    """Reconstructs and measures batches of images.

    Args:
      methods: make the reconstructions.
      lpips_weights: None leaves LPIPS out.
      rounding: of a reconstruction to 8-bit values, see ``metrics.to_unit_range``.
      inside: a focus [H, W], inside and outside of which PSNR is measured too.
      network: whose features are collected, of images and reconstructions; None for none.
      compared: False if images have no originals: then only features are collected.
      keep: of ``features`` (the network's first set) and ``pixels`` (8-bit), each with ``/`` and
        ``ORIGINAL`` or ``MADE``: what a measurement keeps of every image.
    """

    def __init__(
        self,
        methods: Methods,
        *,
        lpips_weights: LPIPSWeights | None,
        rounding: Rounding,
        inside: Bool[np.ndarray, "h w"] | None = None,
        network: FeatureNetwork | None = None,
        compared: bool = True,
        keep: Collection[str] = (),
    ):
        self._methods, self._keep, self._rounding = methods, tuple(keep), rounding
        self._first_set = network.sets[0] if network else None
        weights = network.weights if network else None
        if weights is lpips_weights:
            weights = None  # one set of weights: its features are computed once for both
        self._frozen = (lpips_weights, inside, weights)
        apply = network.apply if network else None
        self._measure = _measure_on_devices(rounding, apply, compared)

    def __call__(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[BatchResult]:
        """Results of every batch, of the images whose ``mask`` is set."""
        for batch in batches:
            yield self._batch(batch)

    def _batch(self, batch: Mapping[str, Any]) -> BatchResult:
        rows = np.flatnonzero(batch["mask"])
        images = pad_and_shard(batch["image"])
        made = self._methods(dict(batch) | {"image": images})
        reconstructions = {method: one.images for method, one in made.items()}
        metrics, features = self._measure(images, reconstructions, *self._frozen)
        first, *others = made
        for method in others:
            metrics[method] = metrics[method] | dict(made[method].values)

        def on_host(tree: Any) -> Any:
            flat = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:])[rows], tree)
            return jax.tree.map(np.asarray, flat)

        features = {name: on_host(of) for name, of in features.items()}
        pictures = {ORIGINAL: images, MADE: made[first].images}
        kept = {}
        for name in self._keep:
            kind, _, of = name.partition("/")
            if kind == "pixels":
                rounding = "round" if of == ORIGINAL else self._rounding
                kept[name] = to_uint8(on_host(pictures[of]), rounding)
            else:
                kept[name] = features[self._first_set][first if of == MADE else of]
        return BatchResult(
            names=[batch["name"][i] for i in rows],
            positions=batch["position"][rows],
            metrics={method: on_host(metrics[method]) for method in made},  # trees get sorted
            values=on_host(dict(made[first].values)),
            features=features,
            kept=kept,
            through=int((batch["position"] >= 0).sum()),
            _rows=rows,
            _images=images,
            _reconstructions=made,
        )


@lru_cache
def _measure_on_devices(rounding: Rounding, apply: ApplyNetwork | None, compared: bool):
    """One compiled function serves all cells whose images have one size.

    All methods are in it, and networks get one and the same array, so that the compiler sees what
    there is in common and computes an image's VGG16 features once, for LPIPS and for distances.
    """

    def as_file(images, rounding):
        return 2 * to_unit_range(images, rounding) - 1

    def measure(images, reconstructions, lpips_weights, inside, network_weights):
        weights = lpips_weights if network_weights is None else network_weights
        originals = as_file(images, "none")
        metrics, features = {}, {}
        if apply and compared:
            features[ORIGINAL] = apply(weights, originals)
        for method, others in reconstructions.items():
            made = as_file(others, rounding)
            metrics[method] = image_metrics(images, others, rounding=rounding) if compared else {}
            if compared and lpips_weights is not None:
                metrics[method]["lpips"] = lpips(lpips_weights, made, originals)
            if inside is not None:
                near, far = local_psnr(images, others, inside, rounding)
                metrics[method] |= {"psnr_inside": near, "psnr_outside": far}
            if apply:
                features[method] = apply(weights, made)
        sets = next(iter(features.values()), {})
        by_set = {name: {method: one[name] for method, one in features.items()} for name in sets}
        return metrics, by_set

    axes = (0, 0, None, None, None)
    return map_over_devices(measure, axes, devices=jax.local_devices(), name="the metrics")


class Share:
    """One process's share of a cell while it is measured, on disk and in sums.

    Args:
      directory: of the cell; what was kept there of the same share before is gone on with.
      identity: all that the numbers depend on; progress made under another one is dropped.
      process: number of the one whose share it is.
      fresh: drop earlier progress.

    Attributes:
      done: how many of the share's images are through.
      unreadable: those of them that could not be read.
      features: sums by feature set, then by method or ``ORIGINAL``.
      scores: sums of class probabilities by method.
    """

    def __init__(
        self, directory: Path, identity: Mapping[str, Any], process: int = 0, *, fresh: bool = False
    ):
        folder = directory / PROGRESS
        folder.mkdir(parents=True, exist_ok=True)
        self._rows, self._state = _files(directory, process)
        self._identity = json.loads(json.dumps(dict(identity)))
        self.done, self.unreadable, self.features, self.scores = 0, Unreadable(), {}, {}
        self._kept: dict[str, AppendedRows] = {}
        if fresh or not self._go_on():
            self._file = AppendedFile(self._rows)
        self._unreadable_before = self.unreadable
        self._saved, self._cost = time.perf_counter(), 0.0

    def add(self, batch: BatchResult, unreadable: Unreadable) -> None:
        """Adds a batch, and all that could not be read since the share was opened."""
        lines = []
        for i, (name, position) in enumerate(zip(batch.names, batch.positions, strict=True)):
            row = {"position": int(position), "name": name}
            for method, values in batch.metrics.items():
                row[method] = {metric: float(column[i]) for metric, column in values.items()}
            row |= {value: float(column[i]) for value, column in batch.values.items()}
            lines.append(json.dumps(row) + "\n")
        self._file.write("".join(lines).encode())
        for name, rows in batch.kept.items():
            if name not in self._kept:
                self._kept[name] = AppendedRows(_kept_file(self._state, name))
            self._kept[name].add(rows)
        for name, of in batch.features.items():
            if name == CLASSES:
                for method, probabilities in of.items():
                    scores = self.scores.setdefault(method, ClassScores())
                    scores.add(probabilities, batch.positions)
                continue
            sums = self.features.setdefault(name, {})
            for method, features in of.items():
                if method not in sums:
                    sums[method] = FeatureStatistics(features.shape[-1])
                sums[method].add(features)
        before = self._unreadable_before
        self.unreadable = Unreadable(
            before.count + unreadable.count, before.reasons | unreadable.reasons
        )
        self.done += batch.through
        if time.perf_counter() - self._saved >= _SAVING_SHARE * self._cost:
            self.save()

    def save(self) -> None:
        """Keeps all so far for a run that goes on."""
        began = time.perf_counter()
        facts = {
            "identity": self._identity,
            "done": self.done,
            "rows": self._file.facts(),
            "kept": {name: rows.facts() for name, rows in self._kept.items()},
            "scores": list(self.scores),
            "unreadable": [self.unreadable.count, self.unreadable.reasons],
            "features": [[name, method] for name, of in self.features.items() for method in of],
        }
        arrays = {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
        for i, (name, method) in enumerate(facts["features"]):
            moments = self.features[name][method].moments()
            arrays |= {f"mean{i}": moments.mean, f"scatter{i}": moments.scatter}
            arrays[f"count{i}"] = np.int64(moments.count)
        for i, scores in enumerate(self.scores.values()):
            arrays |= {f"{name}{i}": getattr(scores, name) for name in _SCORES}
        write_npz(self._state, arrays, durable=False)
        self._saved = time.perf_counter()
        self._cost = self._saved - began

    def close(self) -> None:
        """Saves, and closes the files."""
        with contextlib.ExitStack() as stack:
            for file in (self._file, *self._kept.values()):
                stack.callback(file.close)
            self.save()

    def _go_on(self) -> bool:
        """Takes up earlier progress; False if there is none of this identity, whole."""
        try:
            arrays = _read_state(self._state)
            facts = json.loads(arrays["facts"].tobytes())
            if facts["identity"] != self._identity:
                return False
            with contextlib.ExitStack() as opened:  # closed again unless all of them are whole
                self._file = AppendedFile(self._rows, facts["rows"])
                opened.callback(self._file.close)
                for name, of in facts["kept"].items():
                    self._kept[name] = AppendedRows(_kept_file(self._state, name), of)
                    opened.callback(self._kept[name].close)
                opened.pop_all()
        except (FileNotFoundError, DamagedFileError) as error:
            self._kept = {}
            if isinstance(error, DamagedFileError):
                print(f"{error}; this cell is measured from its start")
            return False
        self.done = facts["done"]
        self.scores = _read_scores(facts, arrays)
        self.unreadable = Unreadable(*facts["unreadable"])
        for i, (name, method) in enumerate(facts["features"]):
            sums = FeatureStatistics(arrays[f"mean{i}"].size)
            sums.merge(
                FeatureMoments(int(arrays[f"count{i}"]), arrays[f"mean{i}"], arrays[f"scatter{i}"])
            )
            self.features.setdefault(name, {})[method] = sums
        return True


@dataclass(frozen=True)
class Measurement:
    """All that was measured of a cell, in order of the images, whoever measured them.

    Attributes:
      features: sums by feature set, then by method or ``ORIGINAL``.
      unreadable: images that could not be read.
      scores: sums of class probabilities by method.
      kept: what was kept of every image, by name, as long as the files are there; in the order of
        the processes, not of the images.
    """

    features: Statistics
    unreadable: Unreadable
    _files: tuple[Path, ...]
    scores: dict[str, ClassScores] = field(default_factory=dict)
    kept: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def merge(cls, directory: Path, processes: int = 1) -> "Measurement":
        """Brings together the shares of all processes, which have been closed.

        Raises:
          ValueError: if they hold different features.
          DamagedFileError: if a file is not what was written.
          OSError: if one is not there.
        """
        features, unreadable, files = {}, Unreadable(), []
        all_scores: dict[str, ClassScores] = {}
        parts: dict[str, list[np.ndarray]] = {}
        for process in range(processes):
            rows, state = _files(directory, process)
            arrays = _read_state(state)
            facts = json.loads(arrays["facts"].tobytes())
            count, reasons = facts["unreadable"]
            unreadable = Unreadable(unreadable.count + count, unreadable.reasons | reasons)
            files.append(rows)
            for method, scores in _read_scores(facts, arrays).items():
                all_scores.setdefault(method, ClassScores()).merge(scores)
            for name, of in facts["kept"].items():
                parts.setdefault(name, []).append(read_rows(_kept_file(state, name), of))
            if not facts["features"]:
                continue
            keys = {tuple(pair) for pair in facts["features"]}
            known = {(name, method) for name, of in features.items() for method in of}
            if known and keys != known:
                raise ValueError(f"cannot merge features {sorted(keys)} with {sorted(known)}")
            for i, (name, method) in enumerate(facts["features"]):
                moments = FeatureMoments(
                    int(arrays[f"count{i}"]), arrays[f"mean{i}"], arrays[f"scatter{i}"]
                )
                of = features.setdefault(name, {})
                of.setdefault(method, FeatureStatistics(moments.mean.size)).merge(moments)
        kept = {name: a[0] if len(a) == 1 else np.concatenate(a) for name, a in parts.items()}
        return cls(features, unreadable, tuple(files), all_scores, kept)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Numbers of every image, one at a time, in order; with its ``position``."""
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(path.open("rb")) for path in self._files]
            parts = [map(json.loads, file) for file in files]
            yield from heapq.merge(*parts, key=lambda row: row["position"])

    def means(self) -> dict[str, dict[str, float]]:
        """Mean of every metric, by method; the exact sum rounded once, so the same in any order."""
        sums: dict[str, dict[str, Fraction]] = {}
        count = 0
        for row in self.rows():
            count += 1
            for method, metrics in row.items():
                if isinstance(metrics, dict):
                    of = sums.setdefault(method, {})
                    for name, value in metrics.items():
                        of[name] = of.get(name, 0) + _exact(value)
        return {
            method: {name: float(total) / count for name, total in of.items()}
            for method, of in sums.items()
        }

    def remove(self) -> None:
        """Deletes the files of the progress."""
        folder = self._files[0].parent
        for path in [path for kind in _FILES for path in folder.glob(kind)]:
            path.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()


def choose_examples(measurement: Measurement, each: int = 3) -> dict[int, str]:
    """Position to "best", "middle" or "worst" by PSNR of the first method, some of each.

    Fewer of so few images that they would overlap; none of fewer than three, or without a PSNR.
    Equal values keep the order of the data set, so it does not matter how the work was shared.
    """
    positions, values = [], []
    for row in measurement.rows():
        first = next((one for one in row.values() if isinstance(one, dict)), {})
        if "psnr" in first:
            positions.append(row["position"])
            values.append(first["psnr"])
    each = min(each, len(values) // 3)
    if not each:
        return {}
    order = np.argsort(-np.asarray(values), kind="stable")
    middle = (len(order) - each) // 2
    chosen = {"best": order[:each], "middle": order[middle : middle + each], "worst": order[-each:]}
    return {positions[i]: tag for tag, rows in chosen.items() for i in rows}


def _exact(value: float) -> Fraction | float:
    return Fraction(value) if math.isfinite(value) else value


def _files(directory: Path, process: int) -> tuple[Path, Path]:
    folder = directory / PROGRESS
    return folder / f"rows-{process:05d}.jsonl", folder / f"state-{process:05d}.npz"


def _kept_file(state: Path, name: str) -> Path:
    return state.with_name(f"kept-{name.replace('/', '-')}-{state.stem}.bin")


def _read_scores(
    facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[str, ClassScores]:
    return {
        method: ClassScores(*(arrays[f"{name}{i}"] for name in _SCORES))
        for i, method in enumerate(facts["scores"])
    }


def _read_state(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    check_seal(data, path)
    with np.load(io.BytesIO(data)) as arrays:
        return dict(arrays)
