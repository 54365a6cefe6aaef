"""A cell that evaluates a tokenizer's checkpoint on a data set."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from gpstoken_jax import data
from gpstoken_jax.evaluation.baselines import describe_baselines, make_baselines
from gpstoken_jax.evaluation.cells import Cell
from gpstoken_jax.evaluation.evaluator import Evaluator
from gpstoken_jax.evaluation.job import Job, Subject
from gpstoken_jax.evaluation.methods import TokenizerMethods
from gpstoken_jax.evaluation.protocol import fingerprint, shared_protocol
from gpstoken_jax.evaluation.settings import Settings
from gpstoken_jax.partition.focus import box_strength, focus_mask, parse_focuses, read_strength_map
from gpstoken_jax.runtime.checkpoint import CheckpointError
from gpstoken_jax.runtime.run_directory import RunDirectory, Tokenizer, load_tokenizer, read_config
from gpstoken_jax.tokens.coding import Subset, checksum
from gpstoken_jax.tokens.tiles import tile_grid

CROP = "resized to cover the size (bilinear, antialiased), then centre crop"


@dataclass(frozen=True)
class Plan:
    """What of a cell is known from the config alone; ``size`` is (height, width)."""

    cell: Cell
    config: ConfigDict
    source: data.ImageSource
    size: tuple[int, int]
    tiles: tuple[int, int]
    num_tokens: int

    @property
    def values_per_image(self) -> int:
        per_token = 5 + self.config.model.feature_channels
        return math.prod(self.tiles) * self.num_tokens * per_token

    @property
    def batch_size(self) -> int:
        return max(1, self.config.eval.batch_size // math.prod(self.tiles))


def plan_tokenizer(cell: Cell, settings: Settings) -> Job:
    """Looks at config and data of a cell.

    Raises:
      CheckpointError: if the checkpoint has no readable config, or is no tokenizer's.
      ValueError, OSError: if the data cannot be opened, or the size has no whole tiles.
    """
    plan = _plan(cell, settings)
    height, width = plan.size
    tiles = math.prod(plan.tiles)
    tokens = f"{plan.num_tokens} tokens" if tiles == 1 else f"{tiles} x {plan.num_tokens} tokens"
    return Job(
        name=cell.name,
        place=cell.checkpoint,
        num_images=len(plan.source),
        pixels=height * width * len(plan.source),
        description=f"{cell.checkpoint}; {plan.source.description}; {height} x {width} pixels; "
        f"{tokens}",
        open=partial(_open, plan, settings),
    )


def _plan(cell: Cell, settings: Settings) -> Plan:
    config = read_config(RunDirectory(cell.checkpoint))
    if (task := config.get("task", "tokenizer")) != "tokenizer":
        raise CheckpointError(f"{cell.checkpoint} is a run of {task}, not of a tokenizer")
    for name in ("batch_size", "rounding", "high_resolution"):
        if (value := getattr(settings, name)) is not None:
            config.eval[name] = value
    size = cell.size or (config.model.image_size,) * 2
    return Plan(
        cell=cell,
        config=config,
        source=_open_source(config.data, cell, settings.split),
        size=size,
        tiles=tile_grid(*size, config.model.image_size),
        num_tokens=cell.num_tokens or config.partition.num_tokens,
    )


def _open_source(config: ConfigDict, cell: Cell, split: str | None) -> data.ImageSource:
    """The images of a cell: those that it names, else those of the config."""
    given = dict(cell.dataset.fields)
    if given:
        config.update({"folder": None, "tfds_name": None, "tfds_dir": None, **given})
    return data.open_source(config, split or ("all" if "folder" in given else config.eval_split))


@lru_cache(maxsize=1)  # cells of one checkpoint follow each other
def _load(root: Path, step: int | None, weights: str) -> tuple[Tokenizer, int]:
    """The tokenizer and a checksum of its weights."""
    tokenizer = load_tokenizer(root, step=step, weights=weights)
    return tokenizer, checksum(tokenizer.params)


def _open(plan: Plan, settings: Settings) -> Subject:
    tokenizer, crc32 = _load(plan.cell.checkpoint, settings.step, settings.weights)
    config = plan.config
    focus = read_focus(plan.size, settings)
    way = config.eval.get("high_resolution", "merged")
    inside = None if focus is None else focus_mask(focus)
    baselines = make_baselines(
        settings.baselines, plan.values_per_image, plan.values_per_image * settings.bytes_per_value
    )
    methods = TokenizerMethods(
        tokenizer,
        plan.num_tokens,
        tiles=plan.tiles,
        high_resolution=way,
        focus=focus,
        baselines=baselines,
    )
    evaluator = Evaluator(
        methods,
        lpips_weights=settings.lpips,
        rounding=config.eval.rounding,
        inside=inside,
        network=settings.network,
    )
    protocol = _protocol(plan, settings, tokenizer, way, crc32)
    return Subject(
        protocol=protocol,
        title=f"Reconstructions of {plan.cell.checkpoint}, step {tokenizer.step}",
        label=f"GPSToken, {protocol['num_tokens']} tokens",
        evaluator=evaluator,
        batches=partial(_batches, plan),
        inside=inside,
    )


def _batches(plan: Plan, positions: Iterable[int] | None) -> data.EvalBatches:
    """This process's share of all images; some of them, all of those."""
    if positions is None:
        return data.eval_batches(
            plan.source,
            plan.config.data,
            plan.size,
            plan.batch_size,
            jax.process_index(),
            jax.process_count(),
        )
    some = Subset(plan.source, list(positions))
    return data.eval_batches(some, plan.config.data, plan.size, plan.batch_size)


def read_focus(size: tuple[int, int], settings: Settings) -> np.ndarray | None:
    """The strength at every pixel that boxes and the map ask for together; None for none."""
    if not settings.focus and settings.bias_map is None:
        return None
    strength = box_strength(size, *parse_focuses(settings.focus))
    if settings.bias_map is not None:
        strength = strength + read_strength_map(settings.bias_map, size)
    return strength


def _protocol(
    plan: Plan, settings: Settings, tokenizer: Tokenizer, way: str, crc32: int
) -> Mapping[str, object]:
    """Everything that a figure depends on."""
    config, tiles, values = plan.config, plan.tiles, plan.values_per_image
    focus = [*settings.focus, *([settings.bias_map] if settings.bias_map else [])]
    return {
        "checkpoint": str(plan.cell.checkpoint),
        "step": tokenizer.step,
        "weights": settings.weights,
        "weights_crc32": f"{crc32:08x}",
        "data_name": plan.cell.dataset.name,
        "data": plan.source.description,
        "data_crc32": fingerprint(plan.source),
        "size": f"{plan.size[0]} x {plan.size[1]}",
        "crop": CROP,
        "num_tokens": math.prod(tiles) * plan.num_tokens,
        "tiles": f"{tiles[0]} x {tiles[1]}, {way}" if tiles != (1, 1) else "1 x 1",
        "focus": "; ".join(focus) or "none",
        "values_per_image": values,
        "bytes_per_value": settings.bytes_per_value,
        **describe_baselines(settings.baselines, values, values * settings.bytes_per_value),
        **shared_protocol(settings, config.eval.rounding),
        "dtype": config.model.dtype,
    }
