"""One name for every stage 1: a file of layouts, or the run of a network."""

from pathlib import Path

from gpstoken_jax.generation.layouts.empirical import EmpiricalSampler
from gpstoken_jax.generation.layouts.file import LayoutsError, is_layout_file, read_layouts
from gpstoken_jax.generation.layouts.sampler import LayoutSampler
from gpstoken_jax.generation.layouts.sit_sampler import load_sit_sampler
from gpstoken_jax.generation.layouts.tree_sampler import load_tree_sampler
from gpstoken_jax.runtime.buckets import is_url
from gpstoken_jax.runtime.run_directory import RunDirectory, fetch_run, read_config, task_name


def open_layouts(
    path: str | Path, *, num_tokens: int | None = None, in_turn: bool = False
) -> LayoutSampler:
    """The sampler that a path stands for.

    Args:
      path: a file of layouts, or the directory of a run of task layout_tree or layout_sit.
      num_tokens: L that is needed. The network over the tree can have any; of the others it is
        only checked.
      in_turn: of a file of layouts, see ``EmpiricalSampler``.

    Raises:
      LayoutsError: if it is none of these, or has layouts of another number of tokens.
      CheckpointError: if the run cannot be read.
    """
    sampler = _open(
        fetch_run(path) if is_url(path) else Path(path).expanduser(), num_tokens, in_turn
    )
    if num_tokens not in (None, sampler.num_tokens):
        raise LayoutsError(
            f"{path} has layouts of {sampler.num_tokens} tokens, {num_tokens} are needed; "
            "a run of configs/layout_tree.py can draw any number"
        )
    return sampler


def _open(path: Path, num_tokens: int | None, in_turn: bool) -> LayoutSampler:
    if not path.is_dir() or is_layout_file(path):
        return EmpiricalSampler(read_layouts(path), in_turn=in_turn)
    task = task_name(read_config(RunDirectory(path)))
    if task == "layout_tree":
        return load_tree_sampler(path, num_tokens=num_tokens)
    if task == "layout_sit":
        return load_sit_sampler(path)
    raise LayoutsError(f"{path} has a run of task {task!r}, which draws no layouts")
