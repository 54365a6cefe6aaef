"""The grid of an evaluation: checkpoints, data sets, sizes and numbers of tokens."""

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from gpstoken_jax.runtime.file_names import folder_names

HELD_OUT = "held_out"


@dataclass(frozen=True)
class Dataset:
    """A data set by the name that tables have for it.

    fields: those of a config's ``data`` section that say where it is; none for the held-out split
    of the data that a checkpoint was trained on.
    """

    name: str
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Combination:
    """One checkpoint, data set, size and number of tokens; None is the checkpoint's own."""

    name: str
    checkpoint: Path
    dataset: Dataset
    size: tuple[int, int] | None = None
    num_tokens: int | None = None


def make_grid(
    checkpoints: Sequence[Path],
    datasets: Sequence[Dataset],
    sizes: Sequence[tuple[int, int]],
    token_counts: Sequence[int],
) -> list[Combination]:
    """Every combination, checkpoint by checkpoint; no sizes or token counts are the models' own.

    A cell's name has nothing in it that depends on the rest of the grid but for what tells
    checkpoints of one name apart, so a larger grid in the same place finds the cells of a smaller.
    """
    runs = dict(zip(checkpoints, distinct_names(checkpoints), strict=True))
    grid = list(product(checkpoints, datasets, sizes or [None], token_counts or [None]))
    names = []
    for run, dataset, size, count in grid:
        parts = [runs[run], dataset.name]
        parts += [f"{size[0]}x{size[1]}"] if size else []
        names.append("-".join(parts + [f"{count}_tokens"] * bool(count)))
    return [Combination(name, *one) for name, one in zip(folder_names(names), grid, strict=True)]


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of paths, as many as tell them apart: ``a/x, b/x`` are ``a_x, b_x``."""
    parts = [path.absolute().parts for path in paths]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["_".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"{paths[0]} is given twice")


def find_checkpoints(patterns: Iterable[str]) -> list[Path]:
    """The directories that patterns such as ``runs/*/`` mean, in order, each once.

    A path that is there is meant as it is, whatever characters it has.

    Raises:
      ValueError: a pattern that nothing fits.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        literal = Path(pattern).expanduser()
        fitting = [literal] if literal.exists() else sorted(map(Path, glob.glob(str(literal))))
        directories = [path for path in fitting if path.is_dir()]
        if not directories:
            raise ValueError(f"--checkpoints: no directory is called {pattern}")
        found |= dict.fromkeys(directories)
    return list(found)


def parse_sizes(texts: Iterable[str]) -> list[tuple[int, int]]:
    """(height, width) of ``"256"`` (a square) and ``"256x512"`` (height x width).

    Raises:
      ValueError: anything else; names it.
    """
    return list(dict.fromkeys(map(_parse_size, texts)))


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not height or not width:
        raise ValueError(f"--resolution={text} must be a side, or HEIGHTxWIDTH such as 256x512")
    return height, width


def parse_token_counts(texts: Iterable[str]) -> list[int]:
    """Numbers of tokens.

    Raises:
      ValueError: anything that is not a positive whole number; names it.
    """
    for text in texts:
        if not re.fullmatch(r"0*[1-9]\d*", text.strip()):
            raise ValueError(f"--num_tokens={text} must be a positive whole number")
    return list(dict.fromkeys(map(int, texts)))


def parse_datasets(texts: Iterable[str]) -> list[Dataset]:
    """Data sets of ``"NAME=DIR"`` or ``"DIR"``: a folder of images, or a prepared data set.

    Raises:
      ValueError: no directory, or two data sets of one name.
    """
    datasets = []
    for text in texts:
        name, equals, place = text.partition("=")
        path = Path(place if equals else text).expanduser()
        if not path.is_dir():
            raise ValueError(f"--datasets: {path} is no directory")
        kind = "tfds_dir" if _is_prepared(path) else "folder"
        datasets.append(Dataset(name if equals else path.resolve().name, ((kind, str(path)),)))
    names = [dataset.name for dataset in datasets]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"--datasets: two are called {twice}; name them, as in a={twice},b=...")
    return datasets


def _is_prepared(path: Path) -> bool:
    """Tells whether a directory holds a TFDS data set rather than plain images."""
    return any(next(path.glob("*/" * depth + "dataset_info.json"), None) for depth in range(4))
