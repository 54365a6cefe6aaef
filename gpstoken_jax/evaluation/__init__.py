"""Evaluation: reconstructions measured, compared and reported by eval.py.

A run is a grid of cells (`grid.py`): a checkpoint, a data set, a size and a number of tokens, or a
folder of images beside their references. A cell is planned without its weights (`subjects.py`),
then every image of it is reconstructed (`methods.py`) and measured once
(`measurement.py`); `results.py`, `tables.py` and `pages.py`, with `pictures.py` and `curves.py`,
write what came out. `run.py` goes through all cells, past those that are there already and those
that fail.
"""

from gpstoken_jax.evaluation.grid import (
    HELD_OUT,
    Dataset,
    find_checkpoints,
    make_grid,
    parse_datasets,
    parse_token_counts,
)
from gpstoken_jax.evaluation.methods import check_bits
from gpstoken_jax.evaluation.reference import Reference, read_reference
from gpstoken_jax.evaluation.results import CellResult
from gpstoken_jax.evaluation.run import Run
from gpstoken_jax.evaluation.subjects import (
    Cell,
    Settings,
    broken_cell,
    plan_pairs,
    plan_samples,
    plan_tokenizer,
    split_checkpoint,
)
from gpstoken_jax.evaluation.tables import describe_gain, failures, focus_effect
from gpstoken_jax.metrics.baselines import check_baselines

__all__ = [
    "HELD_OUT",
    "Cell",
    "CellResult",
    "Dataset",
    "Reference",
    "Run",
    "Settings",
    "broken_cell",
    "check_baselines",
    "check_bits",
    "describe_gain",
    "failures",
    "find_checkpoints",
    "focus_effect",
    "make_grid",
    "parse_datasets",
    "parse_token_counts",
    "plan_pairs",
    "plan_samples",
    "plan_tokenizer",
    "read_reference",
    "split_checkpoint",
]
