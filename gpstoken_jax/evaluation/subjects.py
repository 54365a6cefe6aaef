"""Subjects of an evaluation: a tokenizer, images beside references, or images of a generator.

Each is planned from configs and lists of files, and opened, with its weights, when it is its turn.
"""

import math
import subprocess
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Bool
from ml_collections import ConfigDict

from gpstoken_jax import data
from gpstoken_jax.data.loader import ReadAhead, Unreadable
from gpstoken_jax.data.pairs import PairBatches, find_pairs
from gpstoken_jax.data.resize import resize_of
from gpstoken_jax.data.selected import SampleBatches, SourceBatches
from gpstoken_jax.evaluation.grid import Combination
from gpstoken_jax.evaluation.measurement import MADE, Evaluator
from gpstoken_jax.evaluation.methods import (
    FITTED_IMAGES,
    fit_rates,
    given_images,
    tokenizer_methods,
)
from gpstoken_jax.evaluation.reference import Reference, open_samples
from gpstoken_jax.features.lpips import LPIPSWeights
from gpstoken_jax.metrics.baselines import describe_baselines, make_baselines
from gpstoken_jax.metrics.manifold import NEIGHBOURS
from gpstoken_jax.model.gpstoken import GPSToken
from gpstoken_jax.model.high_resolution import encode_images
from gpstoken_jax.model.tiles import tile_grid
from gpstoken_jax.partition.focus import focus_mask, read_focus
from gpstoken_jax.runtime.checkpoint import CheckpointError, params_checksum
from gpstoken_jax.runtime.devices import pad_shard_unpad
from gpstoken_jax.runtime.fingerprints import fingerprint_files
from gpstoken_jax.runtime.run_directory import RunDirectory, read_config, task_name
from gpstoken_jax.tokenizer import Tokenizer
from gpstoken_jax.weights import pretrained
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.feature_networks import ORIGINAL, FeatureNetwork
from gpstoken_jax.weights.sources import find_source

CROP = "resized to cover the size (bilinear, {}), then centre crop"
_RESIZES = {
    "antialias": "antialiased",
    "published": "not antialiased, as published",
    "fast": "antialiased, large JPEG files decoded at a fraction",
}
GIVEN_BATCH_SIZE = 8
_SMALLEST_SIDES = {"SSIM": 11, "LPIPS (--nolpips)": 16, "the VGG16 distance (--nofrechet)": 16}


@dataclass(frozen=True)
class Settings:
    """Settings of all cells; None is what a checkpoint's config says.

    Attributes:
      step, weights: of a checkpoint, see ``Tokenizer.from_pretrained``.
      resize: of images, see ``data.resize_and_crop``.
      split: of the data; by default all of a folder that was given, else the held-out split.
      batch_size, rounding, high_resolution: see ``configs/common.py``, section eval.
      focus, bias_map: see ``focus.parse_focus`` and ``focus.read_strength_map``.
      lpips: its weights, or None to leave it out.
      network: whose features Fréchet distances compare, or None to leave them out.
      reference: what reconstructions are compared with beside their originals, and samples alone.
      precision_recall: measure them, too, which keeps features of all images on disk.
      save_statistics: the file for those of the images themselves.
      save_images: with them the images, for a reference batch.
      save_batch: the file for what is evaluated: samples, or reconstructions.
      baselines: names of those beside the evaluated method.
      bits: of a value, for the tokenizer's rate-distortion curve; none leaves it out.
      bytes_per_value: storage of a token's value that compressed baselines may spend.
      verify: tell changed images by their content, not by size and date.
    """

    step: int | None = None
    weights: str = "ema_params"
    resize: str | None = None
    split: str | None = None
    batch_size: int | None = None
    rounding: str | None = None
    high_resolution: str | None = None
    focus: tuple[str, ...] = ()
    bias_map: str | None = None
    lpips: LPIPSWeights | None = None
    network: FeatureNetwork | None = None
    reference: Reference | None = None
    precision_recall: bool = False
    save_statistics: Path | None = None
    save_images: bool = False
    save_batch: Path | None = None
    baselines: tuple[str, ...] = ("bicubic",)
    bits: tuple[int, ...] = ()
    bytes_per_value: int = 2
    verify: bool = False

    def keep(self, compared: bool) -> tuple[str, ...]:
        """Names of the arrays that are kept of every image, see ``Evaluator``."""
        wanted = {
            f"features/{MADE}": self.precision_recall,
            f"features/{ORIGINAL}": self.precision_recall and compared,
            f"pixels/{MADE}": self.save_batch is not None,
            f"pixels/{ORIGINAL}": self.save_images,
        }
        return tuple(name for name, asked in wanted.items() if asked)


class Batches(Protocol):
    """Batches of images, and what of them could not be read so far."""

    unreadable: Unreadable

    def __iter__(self) -> Iterator[dict[str, Any]]: ...


@dataclass(frozen=True)
class Subject:
    """A cell with its weights loaded.

    Attributes:
      protocol: everything that its figures depend on.
      title: a line for the report.
      label: name of the evaluated method in a table.
      evaluator: measures batches.
      batches: of the images at some positions.
      inside: the focus, to be outlined in drawings.
    """

    protocol: dict[str, Any]
    title: str
    label: str
    evaluator: Evaluator
    batches: Callable[[Sequence[int]], Batches]
    inside: Bool[np.ndarray, "h w"] | None = None


@dataclass(frozen=True)
class Cell:
    """A cell of the grid before its turn.

    Attributes:
      name: also of its directory.
      open: loads weights; raises what is wrong, also if the cell could not even be planned.
      num_images: of all processes together.
      pixels: of all its images, in proportion to which the time left is guessed.
      description: a line for the screen.
      inputs: directories that its images are in.
    """

    name: str
    open: Callable[[], Subject]
    num_images: int = 0
    pixels: int = 0
    description: str = ""
    inputs: tuple[Path, ...] = ()


def broken_cell(name: str, error: Exception) -> Cell:
    """A cell that cannot be planned: its turn comes, and fails."""

    def fail() -> Subject:
        raise error

    return Cell(name, fail)


def plan_tokenizer(cell: Combination, settings: Settings) -> Cell:
    """Looks at config and data of a checkpoint's cell.

    Raises:
      CheckpointError: if the checkpoint has no readable config, or is no tokenizer's.
      ValueError, OSError: if the data cannot be opened, or the size has no whole tiles.
    """
    root, step = split_checkpoint(cell.checkpoint, settings.step)
    config = _read_config(root)
    if (task := task_name(config)) != "tokenizer":
        raise CheckpointError(f"{cell.checkpoint} is a run of {task}, not of a tokenizer")
    for name in ("batch_size", "rounding", "high_resolution"):
        if (value := getattr(settings, name)) is not None:
            config.eval[name] = value
    given = dict(cell.dataset.fields)
    data.name_data(config.data, given)
    config.data.resize = settings.resize or resize_of(config.data)
    split = settings.split or (
        "all" if given.keys() & {"folder", "list"} else config.data.eval_split
    )
    source = data.open_source(config.data, split)
    config.partition.num_tokens = cell.num_tokens or config.partition.num_tokens
    size = cell.size or (config.model.image_size,) * 2
    tiles = tile_grid(*size, config.model.image_size)
    check_sides(size, settings)
    count, (height, width) = config.partition.num_tokens, size
    tokens = f"{count} tokens" if tiles == (1, 1) else f"{math.prod(tiles)} x {count} tokens"
    return Cell(
        name=cell.name,
        num_images=len(source),
        pixels=height * width * len(source),
        description=f"{cell.checkpoint}; {source.description}; {height} x {width} pixels; {tokens}",
        open=partial(_open_tokenizer, cell, root, step, config, source, size, tiles, settings),
        inputs=tuple(map(Path, data.data_paths(config.data))),
    )


def split_checkpoint(checkpoint: Path, step: int | None) -> tuple[Path, int | None]:
    """The directory and the step of RUN, RUN/checkpoints, RUN/checkpoints/STEP, or other weights.

    Raises:
      CheckpointError: if it is none of these, or another step is asked for as well.
    """
    root = pretrained.find(checkpoint, step)
    return pretrained.split_step(root, step) if pretrained.is_work_directory(root) else (root, step)


def _read_config(root: Path) -> ConfigDict:
    """The config of a run, or of weights from elsewhere."""
    if pretrained.is_work_directory(root):
        return read_config(RunDirectory(root))
    try:
        return find_source(root).config
    except WeightsError:
        if root.is_dir():
            read_config(RunDirectory(root))  # says what a run without checkpoints lacks
        raise


@lru_cache(maxsize=1)  # cells of one checkpoint follow each other
def _load(root: Path, step: int | None, weights: str) -> tuple[GPSToken, Any, int, str]:
    """The model, its parameters, their step and a checksum of them."""
    loaded = Tokenizer.from_pretrained(root, step=step, weights=weights)
    return loaded.model, loaded.params, loaded.step, f"{params_checksum(loaded.params):08x}"


def _open_tokenizer(
    cell: Combination,
    root: Path,
    step: int | None,
    config: ConfigDict,
    source: data.ImageSource,
    size: tuple[int, int],
    tiles: tuple[int, int],
    settings: Settings,
) -> Subject:
    model, params, step, crc32 = _load(root, step, settings.weights)
    focus = read_focus(size, settings.focus, settings.bias_map)
    resize = resize_of(config.data)
    way = config.eval.get("high_resolution", "merged")
    num_tokens = math.prod(tiles) * config.partition.num_tokens
    values = num_tokens * (5 + config.model.feature_channels)
    baselines, described = _baselines(settings.baselines, values, settings)
    batch_size = max(1, config.eval.batch_size // math.prod(tiles))
    batches = partial(SourceBatches, source, config.data, size, batch_size)
    rates = {}
    if settings.bits:
        partition = config.partition.copy_and_resolve_references()
        encode = pad_shard_unpad(lambda p, images: encode_images(model, p, images, **partition)[1])
        some = batches(range(min(FITTED_IMAGES, len(source))))
        rates = fit_rates(partial(encode, params), some, settings.bits, len(source), tiles)
        described["bits"] = ", ".join(map(str, settings.bits))
    methods = tokenizer_methods(
        model,
        params,
        config.partition.copy_and_resolve_references(),
        baselines,
        tiles=tiles,
        high_resolution=way,
        focus=focus,
        rates=rates,
    )
    inside = None if focus is None else focus_mask(focus)
    focuses = [*settings.focus, *([settings.bias_map] if settings.bias_map else [])]
    protocol = {
        "checkpoint": str(cell.checkpoint),
        "step": step,
        "weights": settings.weights,
        "weights_crc32": crc32,
        "data_name": cell.dataset.name,
        "data": source.description,
        "data_fingerprint": source.fingerprint(content=settings.verify),
        "size": f"{size[0]} x {size[1]}",
        "crop": CROP.format(_RESIZES[resize]),
        "resize": resize,
        "num_tokens": num_tokens,
        "tiles": f"{tiles[0]} x {tiles[1]}, {way}" if tiles != (1, 1) else "1 x 1",
        "focus": "; ".join(focuses) or "none",
        **described,
        **shared_protocol(settings, config.eval.rounding),
        "dtype": config.model.dtype,
    }
    return Subject(
        protocol=protocol,
        title=f"Reconstructions of {cell.checkpoint}, step {step}",
        label=f"GPSToken, {num_tokens} tokens",
        evaluator=Evaluator(
            methods,
            lpips_weights=settings.lpips,
            rounding=config.eval.rounding,
            inside=inside,
            network=settings.network,
            keep=settings.keep(True),
        ),
        batches=batches,
        inside=inside,
    )


def plan_pairs(
    images: Path,
    references: Path,
    settings: Settings,
    size: tuple[int, int] | None = None,
    num_values: int | None = None,
) -> Cell:
    """Looks at images that some program wrote and at their references.

    Args:
      images, references, size: see ``pairs.find_pairs``.
      settings: of the measurement.
      num_values: that the method stores of an image, for the baselines; None leaves them out.

    Raises:
      ValueError, OSError: what ``pairs.find_pairs`` raises.
    """
    pairs = sorted(find_pairs(images, references, size), key=lambda pair: pair.size)
    sizes = sorted({pair.size for pair in pairs})
    check_sides(tuple(map(min, zip(*sizes, strict=True))), settings)
    described = ", ".join(f"{height} x {width}" for height, width in sizes[:3])
    described += f" and {len(sizes) - 3} more sizes" if len(sizes) > 3 else ""
    files = [file for pair in pairs for file in (pair.image, pair.reference)]

    def open_pairs() -> Subject:
        names = settings.baselines if num_values else ()
        baselines, entries = _baselines(names, num_values, settings)
        protocol = {
            "images_folder": str(images),
            "data_name": references.resolve().name,
            "data": f"folder {references}: {len(pairs)} images",
            "data_fingerprint": fingerprint_files(
                [(file.name, file.path) for file in files], content=settings.verify
            ),
            "size": described,
            "crop": f"references: {CROP.format(_RESIZES['antialias'])}" if size else "none",
            **entries,
        }
        batch_size = settings.batch_size or GIVEN_BATCH_SIZE
        title = f"{images} beside its references"
        batches = partial(PairBatches, pairs, batch_size)
        return _given(images, title, protocol, baselines, batches, settings)

    return Cell(
        name=images.resolve().name,
        num_images=len(pairs),
        pixels=sum(math.prod(pair.size) for pair in pairs),
        description=f"{images} beside {references}: {len(pairs)} images, {described} pixels",
        open=open_pairs,
        inputs=(images, references),
    )


def plan_samples(images: Path, settings: Settings, size: tuple[int, int] | None = None) -> Cell:
    """Looks at a generator's images, which have no originals and are taken as they are.

    Args:
      images: see ``reference.open_samples``.
      settings: of the measurement.
      size: (height, width) that they must have, that of a reference; any by default.

    Raises:
      ValueError, OSError: if there are none, the first cannot be read or has another size, or the
        generator has not finished.
    """
    source = open_samples(images)
    height, width = source[0].size
    if size and size != (height, width):
        raise ValueError(
            f"the images in {images} are {height} x {width}: --resolution must be their own, to "
            "which those of a --reference folder are brought"
        )

    def open_subject() -> Subject:
        protocol = {
            "images_folder": str(images),
            "data_name": images.resolve().name,
            "data": source.description,
            "data_fingerprint": source.fingerprint(content=settings.verify),
            "size": f"{height} x {width}",
            "crop": "none",
        }
        beside = f" beside {settings.reference.name}" if settings.reference else ""
        title = f"{images}{beside}"
        batch_size = settings.batch_size or GIVEN_BATCH_SIZE
        batches = partial(SampleBatches, source, ReadAhead(), (height, width), batch_size)
        return _given(images, title, protocol, {}, batches, settings, compared=False)

    return Cell(
        name=images.resolve().name,
        num_images=len(source),
        pixels=height * width * len(source),
        description=f"{source.description}; {height} x {width} pixels",
        open=open_subject,
        inputs=(images,),
    )


def _given(
    images: Path,
    title: str,
    protocol: dict[str, Any],
    baselines: Mapping[str, Any],
    batches: Callable[[Sequence[int]], Batches],
    settings: Settings,
    compared: bool = True,
) -> Subject:
    return Subject(
        protocol=protocol | shared_protocol(settings, "as the files have it"),
        title=title,
        label=images.resolve().name,
        evaluator=Evaluator(
            given_images(baselines),
            lpips_weights=settings.lpips if compared else None,
            rounding="round",
            network=settings.network,
            compared=compared,
            keep=settings.keep(compared),
        ),
        batches=batches,
    )


def _baselines(
    names: Sequence[str], values: int | None, settings: Settings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The baselines for tokens of so many values, and what the protocol says of them."""
    num_bytes = (values or 0) * settings.bytes_per_value
    protocol = {"values_per_image": values, "bytes_per_value": settings.bytes_per_value}
    if values:
        protocol |= describe_baselines(names, values, num_bytes)
    return make_baselines(names, values or 0, num_bytes), protocol


def check_sides(size: tuple[int, int], settings: Settings) -> None:
    """Refuses images that are too small for what is to be measured.

    Raises:
      ValueError: naming it and its flag.
    """
    of_vgg = settings.network is not None and "frechet_vgg16" in settings.network.sets
    wanted = dict(zip(_SMALLEST_SIDES, (True, settings.lpips is not None, of_vgg), strict=True))
    small = [name for name, side in _SMALLEST_SIDES.items() if wanted[name] and min(size) < side]
    if small:
        needed = ", ".join(f"{name} at least {_SMALLEST_SIDES[name]}" for name in small)
        raise ValueError(f"images of {size[0]} x {size[1]} pixels are too small: {needed} a side")


def shared_protocol(settings: Settings, rounding: str) -> dict[str, object]:
    """Entries of every protocol: how metrics were taken, by what program, on what machine."""
    lpips, reference = settings.lpips, "none"
    if settings.reference is not None:
        crc = 0
        for gaussian in settings.reference.statistics.values():
            arrays = (gaussian.mean, gaussian.covariance)
            crc = zlib.crc32(b"".join(array.tobytes() for array in arrays), crc)
        reference = f"{settings.reference.name} (CRC-32 {crc:08x})"
    asked = {}
    if settings.precision_recall:
        asked["precision_recall"] = f"{NEIGHBOURS} neighbours"
    return asked | {
        "colour_range": "[0, 1] RGB",
        "rounding": rounding,
        "lpips": f"{lpips.network}, version 0.1" if lpips else "not measured",
        "frechet": settings.network.description if settings.network else "not measured",
        "frechet_reference": reference,
        "commit": commit(),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }


def commit() -> str | None:
    """The project's commit, None outside a git checkout; "+" marks uncommitted changes."""
    command = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        head, changes = (
            subprocess.run([*command, *rest], capture_output=True, text=True, check=True).stdout
            for rest in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("+" if changes.strip() else "")
