"""Batches for training and evaluation, read ahead by Grain.

The order of training is one long sequence of shuffled epochs. Position i of it decides which
image comes and every random number drawn for it, so the sequence depends on nothing but the data
set and the seed: not on the number of threads, of worker processes or of JAX processes. Process p
of P takes positions p, p + P, p + 2 P, ...; the state of an iterator is one position.
"""

import dataclasses
import functools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np
from absl import flags, logging
from jaxtyping import UInt8

from gpstoken_jax.data import images, transforms
from gpstoken_jax.data.examples import Example, ImageSource
from gpstoken_jax.data.resize import as_size, resize_and_crop, resize_of, to_array
from gpstoken_jax.data.sources import drafted

MAX_REDRAWS = 50  # unreadable images in a row before a run is stopped
_WATCH_SECONDS = 1.0  # between two looks of a worker at its parent
_MAX_THREADS = 16
_WORKER_BYTES = 192 * 2**20  # of the batches that a worker process is making
_WORKER_CACHE_MB = 64
_NAMES_KEPT = 100  # unreadable images named in a state; further ones are only counted


class UnreadableDataError(RuntimeError):
    """So many images in a row are unreadable that the data set itself must be gone."""


class FittedImages:
    """Images decoded and brought to the working size, kept in memory within a budget.

    What is kept is the same as what would be computed again, so the budget never changes a batch.
    """

    def __init__(self, source: ImageSource, side: int, crop: str, resize: str, budget_mb: float):
        self.source = source
        self._side = side
        self._crop = crop
        self._resize = resize
        self._budget = int(budget_mb * 2**20)
        self._kept: dict[int, tuple[Example, tuple[int, int]]] = {}
        self._used = 0
        self._lock = threading.Lock()

    def __reduce__(self):  # a worker process starts with an empty memory
        budget_mb = self._budget / 2**20
        return FittedImages, (self.source, self._side, self._crop, self._resize, budget_mb)

    def __getitem__(self, index: int) -> tuple[Example, tuple[int, int]]:
        """Returns the fitted example and the image's original (height, width)."""
        if index in self._kept:
            return self._kept[index]
        example = self.source[index]
        fitted = transforms.fit(example.picture, self._side, self._crop, self._resize)
        if self._used < self._budget:
            fitted = to_array(fitted)
        entry = dataclasses.replace(example, picture=fitted), example.size
        with self._lock:
            if (
                isinstance(fitted, np.ndarray)
                and index not in self._kept
                and self._used + fitted.nbytes <= self._budget
            ):
                self._kept[index] = entry
                self._used += fitted.nbytes
        return entry


@dataclasses.dataclass(frozen=True)
class _TrainExample:
    """Makes the training example of one position; picklable, so that workers can have it."""

    fitted: FittedImages
    augment: Callable[..., UInt8[np.ndarray, "s s 3"]]

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        unreadable = []
        example = None
        while example is None:
            try:
                example, _ = self.fitted[index]
            except images.UnreadableImageError as error:
                unreadable.append((self.fitted.source.name(index), str(error)))
                if len(unreadable) == MAX_REDRAWS:
                    raise UnreadableDataError(
                        f"{MAX_REDRAWS} images in a row cannot be read "
                        f"({self.fitted.source.description}); the last: {unreadable[-1]}"
                    ) from error
                index = int(rng.integers(len(self.fitted.source)))
        pixels = self.augment(example.picture, rng=rng)
        return {"pixels": pixels, "label": example.label, "unreadable": unreadable}


@dataclasses.dataclass(frozen=True)
class _EvalExample:
    """Makes the evaluation example of one row of this process; an index of None is padding."""

    indices: list[int | None]
    source: ImageSource
    size: tuple[int, int]
    resize: str

    def __call__(self, row_number: int) -> dict[str, Any]:
        index = self.indices[row_number]
        blank = np.zeros((*self.size, 3), np.uint8)
        row = {"pixels": blank, "label": -1, "name": "", "size": (0, 0), "mask": False}
        if index is None:
            return row | {"position": -1, "unreadable": []}
        row["position"] = index
        try:
            example = self.source[index]
        except images.UnreadableImageError as error:
            name = self.source.name(index)
            return row | {"name": name, "unreadable": [(name, str(error))]}
        return row | {
            "pixels": resize_and_crop(example.picture, self.size, resize=self.resize),
            "label": example.label,
            "name": example.name,
            "size": example.size,
            "mask": True,
            "unreadable": [],
        }


class Unreadable:
    """Counts images that could not be read, and names the first of them with the reason.

    Attributes:
        count: How often an unreadable image was met (each epoch meets it again).
        reasons: Name to reason, at most a hundred.
    """

    def __init__(self, count: int = 0, reasons: dict[str, str] | None = None):
        self.count = count
        self.reasons = dict(reasons or {})

    def add(self, unreadable: list[tuple[str, str]]) -> None:
        """Counts (name, reason) pairs, and warns of names that are new."""
        for name, reason in unreadable:
            self.count += 1
            if name not in self.reasons and len(self.reasons) < _NAMES_KEPT:
                self.reasons[name] = reason
                logging.warning("skipped the unreadable image %s: %s", name, reason)


class TrainBatches:
    """Endless training batches with a position that can be saved and restored.

    Each batch is {"image": uint8 [B, S, S, 3], "label": int32 [B], -1 for none}.
    An unreadable image is replaced by another one, drawn at random, and counted in `unreadable`.
    """

    def __init__(
        self,
        examples: grain.MapDataset,
        batch_size: int,
        process_count: int,
        reading: "ReadAhead",
        identity: dict[str, int],
        batch_bytes: int,
    ):
        self._batch_bytes = batch_bytes
        self._examples = examples
        self._batch_size = batch_size
        self._global_batch = batch_size * process_count
        self._reading = reading
        self._identity = identity
        self._position = 0
        self._batches: Iterator | None = None
        self.unreadable = Unreadable()

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> dict[str, UInt8[np.ndarray, "b s s 3"] | np.ndarray]:
        if self._batches is None:
            self._batches = self._start()
        batch = next(self._batches)
        self._position += self._global_batch
        self.unreadable.add(batch.pop("unreadable"))
        return batch

    def _start(self) -> Iterator:
        batches = self._examples.batch(self._batch_size, drop_remainder=True, batch_fn=_stack_train)
        first = self._position // self._global_batch
        return self._reading.start(batches[first:], self._batch_bytes)

    def get_state(self) -> dict[str, Any]:
        """Position of the next batch: ints, strings and dicts only, so it can be JSON."""
        return {
            "position": self._position,
            **self._identity,
            "unreadable_count": self.unreadable.count,
            "unreadable": dict(self.unreadable.reasons),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues with the batch that followed when the state was taken, to the bit.

        With another batch size or process count it continues at the nearest earlier batch; with
        another seed or number of images it continues at the same position of another sequence.
        Both are logged as warnings.
        """
        for key, now in self._identity.items():
            if state[key] != now:
                logging.warning(
                    "data: %s was %s and is now %s: other images will follow than in "
                    "an uninterrupted run",
                    key,
                    state[key],
                    now,
                )
        if state["position"] % self._global_batch:
            logging.warning(
                "data: position %d is inside a batch of %d; continuing at its start",
                state["position"],
                self._global_batch,
            )
        self.close()
        self._position = state["position"] // self._global_batch * self._global_batch
        self.unreadable = Unreadable(state["unreadable_count"], state["unreadable"])

    def close(self) -> None:
        """Stops reading ahead; the next batch starts it again."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


class EvalBatches:
    """Every image once, in order, in batches of one shape; iterating again starts anew.

    Each batch is {"image": float32 [B, H, W, 3] in [-1, 1] (resized to cover, centre cut),
    "label": int32 [B], "name": list of B strings, "size": int32 [B, 2] original height and width,
    "position": int64 [B] in the source, "mask": bool [B]}.
    Rows whose mask is False are padding (name "") or unreadable (named).
    All processes get the same number of batches.

    Attributes:
        num_images: Images of all processes together.
        unreadable: What could not be read so far, in this process.
    """

    def __init__(
        self, batches: grain.MapDataset, num_images: int, reading: "ReadAhead", batch_bytes: int
    ):
        self._batches, self._batch_bytes = batches, batch_bytes
        self._reading = reading
        self.num_images = num_images
        self.unreadable = Unreadable()

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.unreadable = Unreadable()
        reading = self._reading.start(self._batches, self._batch_bytes)
        try:
            for batch in reading:
                self.unreadable.add(batch.pop("unreadable"))
                yield batch
        finally:
            reading.close()


@dataclasses.dataclass(frozen=True)
class ReadAhead:
    """Number of readers and depth of reading ahead; see `configs/common.py`, section data."""

    num_threads: int = 0
    num_workers: int = 0
    prefetch: int = 2

    @classmethod
    def from_config(cls, data_config: Any) -> "ReadAhead":
        """Those fields of a config's section."""
        return cls(data_config.num_threads, data_config.num_workers, data_config.prefetch)

    def threads(self, batch_bytes: int) -> int:
        """Reading threads of each process: each makes a batch, and memory has to do for all."""
        if self.num_threads or not self.num_workers:
            return self.num_threads or min(_MAX_THREADS, available_cores())
        share = min(_MAX_THREADS, available_cores() // self.num_workers)
        return max(1, min(share, _WORKER_BYTES // (2 * batch_bytes)))  # its images, and the batch

    def start(self, batches: grain.MapDataset, batch_bytes: int) -> Iterator:
        """Begins to read batches of so many bytes."""
        threads = self.threads(batch_bytes)
        buffer = max(-(-self.prefetch // max(1, self.num_workers)), threads)
        read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
        dataset = batches.to_iter_dataset(read)
        if self.num_workers:
            if not flags.FLAGS.is_parsed():  # Grain's workers insist, also in a notebook
                flags.FLAGS.mark_as_parsed()
            options = grain.multiprocessing.MultiprocessingOptions(
                num_workers=self.num_workers,
                per_worker_buffer_size=max(1, self.prefetch // self.num_workers),
            )
            dataset = dataset.mp_prefetch(options, end_with_parent).map(_own_copy)
        return iter(dataset)


def end_with_parent(*_: int) -> None:
    """Lets a worker process end when its parent is gone, also after SIGKILL."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        while parent is None or os.getppid() == parent.pid:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _own_copy(batch: dict[str, Any]) -> dict[str, Any]:
    """Takes a batch out of the memory shared with a worker, which has its own, shorter life."""
    return {k: np.array(v) if isinstance(v, np.ndarray) else v for k, v in batch.items()}


def train_batches(
    source: ImageSource,
    data_config: Any,
    image_size: int,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainBatches:
    """Makes the endless training iterator of one process.

    Args:
        source: Where images come from (`open_source`).
        data_config: ConfigDict with `crop`, `crop_scale`, `resize`, `flip`, `permute_colours`,
            `cache_mb`, `num_threads`, `num_workers`, `prefetch`.
        image_size: Side of the images, in pixels.
        batch_size: Images a batch in this process; may exceed the size of the data set.
        seed: Decides order, crops and flips; in [0, 2**32).
        process_index: Which of the processes this is.
        process_count: How many there are; together they see each image once an epoch.

    Raises:
        ValueError: For an unknown crop or sizes that are not positive.
    """
    transforms.check_crop(data_config.crop)
    _check_shares(image_size, batch_size, process_index, process_count)
    scale, resize = tuple(data_config.crop_scale), resize_of(data_config)
    side = transforms.working_side(image_size, data_config.crop, scale)
    source = drafted(source, side) if resize == "fast" else source
    fitted = FittedImages(source, side, data_config.crop, resize, _budget(data_config))
    augment = functools.partial(
        transforms.augment,
        image_size=image_size,
        crop_scale=scale,
        resize=resize,
        **{name: getattr(data_config, name) for name in ("crop", "flip", "permute_colours")},
    )
    make = _TrainExample(fitted, augment)
    examples = (
        grain.MapDataset.range(len(source))
        .shuffle(seed=seed)
        .repeat()
        .random_map(make, seed=seed)
        .slice(slice(process_index, None, process_count))
    )
    identity = {"seed": seed, "num_images": len(source)}
    reading = ReadAhead.from_config(data_config)
    batch_bytes = 3 * image_size**2 * batch_size
    return TrainBatches(examples, batch_size, process_count, reading, identity, batch_bytes)


def eval_batches(
    source: ImageSource,
    data_config: Any,
    image_size: int | tuple[int, int],
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> EvalBatches:
    """Makes the evaluation batches of one process: centre crops, each image exactly once.

    Args are those of `train_batches`, but `image_size` may also be (height, width); of the
    configuration only `resize` and how to read ahead are used.
    """
    size = as_size(image_size)
    _check_shares(min(size), batch_size, process_index, process_count)
    num_rows = -(-len(source) // (process_count * batch_size)) * batch_size
    own: list[int | None] = list(range(process_index, len(source), process_count))
    own += [None] * (num_rows - len(own))
    resize = resize_of(data_config)
    source = drafted(source, max(size)) if resize == "fast" else source
    make = _EvalExample(own, source, size, resize)
    batches = grain.MapDataset.range(num_rows).map(make).batch(batch_size, batch_fn=_stack_eval)
    batch_bytes = 5 * 3 * size[0] * size[1] * batch_size  # as bytes and as floats
    return EvalBatches(batches, len(source), ReadAhead.from_config(data_config), batch_bytes)


def _stack_train(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "image": np.stack([row["pixels"] for row in rows]),
        "label": np.array([row["label"] for row in rows], np.int32),
        "unreadable": [entry for row in rows for entry in row["unreadable"]],
    }


def _stack_eval(rows: list[dict[str, Any]]) -> dict[str, Any]:
    batch = _stack_train(rows)
    return batch | {
        "image": transforms.to_unit_range(batch["image"]),
        "name": [row["name"] for row in rows],
        "size": np.array([row["size"] for row in rows], np.int32),
        "position": np.array([row["position"] for row in rows], np.int64),
        "mask": np.array([row["mask"] for row in rows], bool),
    }


def _check_shares(image_size: int, batch_size: int, process_index: int, process_count: int) -> None:
    if image_size < 1 or batch_size < 1:
        raise ValueError(f"image_size {image_size} and batch_size {batch_size} must be positive")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not below {process_count} processes")


def _budget(data_config: Any) -> float:
    """Memory for fitted images, shared out among the worker processes."""
    if not data_config.num_workers:
        return data_config.cache_mb
    return min(data_config.cache_mb / data_config.num_workers, _WORKER_CACHE_MB)


def available_cores() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
