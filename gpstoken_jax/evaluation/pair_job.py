"""A cell that compares images which some program wrote with their references."""

import zlib
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import jax

from gpstoken_jax import data
from gpstoken_jax.data.loader import ReadAhead
from gpstoken_jax.evaluation.baselines import describe_baselines, make_baselines
from gpstoken_jax.evaluation.evaluator import Evaluator
from gpstoken_jax.evaluation.job import Job, Subject
from gpstoken_jax.evaluation.methods import GivenImages
from gpstoken_jax.evaluation.pairs import Pair, PairBatches, find_pairs
from gpstoken_jax.evaluation.protocol import shared_protocol, state_of_file
from gpstoken_jax.evaluation.settings import Settings
from gpstoken_jax.evaluation.tokenizer_job import CROP

DEFAULT_BATCH_SIZE = 8


def plan_pairs(
    images: Path,
    references: Path,
    settings: Settings,
    size: tuple[int, int] | None = None,
    num_values: int | None = None,
) -> Job:
    """Looks at the files.

    Args:
      images, references, size: see ``pairs.find_pairs``.
      settings: how to measure.
      num_values: that the method stores of an image, for the baselines; None leaves them out.

    Raises:
      ValueError, OSError: what ``pairs.find_pairs`` raises.
    """
    pairs = find_pairs(images, references, size)
    baselines = settings.baselines if num_values else ()
    sizes = sorted({pair.size for pair in pairs})
    described = ", ".join(f"{height} x {width}" for height, width in sizes[:3])
    described += f" and {len(sizes) - 3} more sizes" if len(sizes) > 3 else ""
    protocol = {
        "images_folder": str(images),
        "data_name": references.resolve().name,
        "data": f"folder {references}: {len(pairs)} images",
        "data_crc32": _fingerprint(pairs),
        "size": described,
        "crop": f"references: {CROP}" if size else "none",
        "values_per_image": num_values,
        "bytes_per_value": settings.bytes_per_value,
    }
    if baselines:
        protocol |= describe_baselines(baselines, num_values, num_values * settings.bytes_per_value)
    return Job(
        name=images.resolve().name,
        place=images,
        num_images=len(pairs),
        pixels=sum(pair.size[0] * pair.size[1] for pair in pairs),
        description=f"{images} beside {references}: {len(pairs)} images, {described} pixels",
        open=partial(_open, pairs, protocol, baselines, settings),
    )


def _open(
    pairs: Sequence[Pair], protocol: dict, baselines: Sequence[str], settings: Settings
) -> Subject:
    values = protocol["values_per_image"] or 0
    made = make_baselines(baselines, values, values * settings.bytes_per_value)
    evaluator = Evaluator(
        GivenImages(made),
        lpips_weights=settings.lpips,
        rounding="round",
        network=settings.network,
    )
    return Subject(
        protocol=protocol | shared_protocol(settings, "as the files have it"),
        title=f"{protocol['images_folder']} beside its references",
        label=Path(protocol["images_folder"]).resolve().name,
        evaluator=evaluator,
        batches=partial(_batches, pairs, settings.batch_size or DEFAULT_BATCH_SIZE),
    )


def _batches(
    pairs: Sequence[Pair], batch_size: int, positions: Iterable[int] | None
) -> PairBatches:
    """This process's share of all pairs; some of them, all of those."""
    shares = (jax.process_index(), jax.process_count()) if positions is None else (0, 1)

    def open_batches(source: data.ImageSource, size: tuple[int, int]) -> data.EvalBatches:
        return data.eval_batches(source, ReadAhead(), size, batch_size, *shares)

    some = pairs if positions is None else [pairs[i] for i in positions]
    return PairBatches(some, open_batches)


def _fingerprint(pairs: Sequence[Pair]) -> str:
    """A checksum that changes with any name, size or date of a file."""
    crc = 0
    for pair in pairs:
        for file in (pair.image, pair.reference):
            crc = zlib.crc32(f"{file.name} {state_of_file(file.path)}".encode(), crc)
    return f"{crc:08x}"
