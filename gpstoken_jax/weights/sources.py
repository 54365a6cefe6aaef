"""Finds a network's weights in a file, a folder or a repository of the Hugging Face hub.

A published file holds plain names. A training checkpoint of the release is a folder that Hugging
Face Accelerate wrote: ``model.safetensors`` (the network), ``model_1.safetensors`` (its averaged
copy as ema_pytorch keeps it: ``ema_model.NAME``, ``online_model.NAME``, ``initted``, ``step``), the
discriminator and the loss networks; with several GPUs every name begins with ``module.``. So a name
is taken apart where the network's own names begin, and what stands before says which copy it is.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ml_collections import ConfigDict

from gpstoken_jax.configs import gpstoken_m128, sit_xl
from gpstoken_jax.runtime.buckets import fetch
from gpstoken_jax.runtime.checkpoint import CheckpointError
from gpstoken_jax.runtime.files import check_sealed_file
from gpstoken_jax.runtime.run_directory import RunDirectory, read_config, task_name
from gpstoken_jax.weights.bundled import find_bundled
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.files import TensorSpec, read_about, read_specs, read_tensors
from gpstoken_jax.weights.hub import download, is_repository
from gpstoken_jax.weights.published import infer_config, published_table
from gpstoken_jax.weights.table import WeightTable

Task = Literal["tokenizer", "sit"]

_AVERAGED = {"ema_model", "ema", "model_ema", "ema_params"}
_COUNTERS = {"initted", "step"}  # of ema_pytorch
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".npz")
_NO_NETWORK = re.compile(r"(optimizer|scheduler|scaler|sampler|training_args|random_states)")
_PART = re.compile(r"-\d+-of-\d+$")
_ROOTS = {
    "tokenizer": published_table(gpstoken_m128.get_config()).roots,
    "sit": published_table(sit_xl.get_config("published")).roots,
}


@dataclass(frozen=True)
class Copy:
    """One copy of a network inside a file; nothing but the header is read before ``load``.

    Attributes:
      path: the file.
      prefix: what stands before the network's own names, e.g. ``"module.ema_model."``.
      tensors: shape and dtype by the network's own name.
    """

    path: Path
    prefix: str
    tensors: Mapping[str, TensorSpec]

    @property
    def averaged(self) -> bool:
        """True for a moving average."""
        return not _AVERAGED.isdisjoint(self.prefix.split("."))

    @property
    def name(self) -> str:
        """File and prefix."""
        return f"{self.path}" + (f" ({self.prefix}*)" if self.prefix else "")

    def load(self) -> dict[str, np.ndarray]:
        """Reads the tensors, by the network's own names, and checks the seal of our own files."""
        check_sealed_file(self.path, required=False)
        tensors = read_tensors(self.path)
        return {key: tensors[self.prefix + key] for key in self.tensors}


@dataclass(frozen=True)
class Source:
    """Weights of a network that were found and fitted to a config.

    Attributes:
      path: the file or folder on this machine.
      config: the whole config: as given, of ``config.json``, or by the tensors' shapes.
      table: the network's published tensors.
      model: the trained weights, None if there are only averaged ones.
      averaged: their moving average, None if there is none.
      ignored: names of tensors that are not used, each with the reason.
      other_files: files of other networks.
      step: the training step, as a folder's name or a file of ours tells; None if none does.
    """

    path: Path
    config: ConfigDict
    table: WeightTable
    model: Copy | None
    averaged: Copy | None
    ignored: Mapping[str, str]
    other_files: tuple[Path, ...]
    step: int | None

    def choose(self, weights: str) -> Copy:
        """The copy for ``"params"`` or ``"ema_params"``; where there is one alone, that one."""
        last, averaged = self.model or self.averaged, self.averaged or self.model
        return averaged if weights == "ema_params" else last

    def load(self, weights: str = "ema_params") -> dict[str, Any]:
        """Flax parameters, ``{"params": ...}``, float32, of ``choose(weights)``; see ``read``."""
        return self.read(self.choose(weights))

    def read(self, copy: Copy) -> dict[str, Any]:
        """Flax parameters of one copy.

        Raises:
          WeightsError: if the file is damaged, or has values that are not finite.
        """
        tensors = copy.load()
        try:
            return self.table.from_torch(tensors)
        except WeightsError as error:
            raise WeightsError(f"{copy.name}: {error}; take weights of another step") from error


def find_source(
    source: str | Path,
    task: Task = "tokenizer",
    *,
    config: ConfigDict | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
) -> Source:
    """Finds the weights of a tokenizer or a generator that others (or ``save_pretrained``) wrote.

    Args:
      source: a file (.safetensors, .pth, .pt, .bin, .ckpt), a folder with one, a folder that
        Accelerate wrote or one of several of those (the newest is taken), ``OWNER/NAME`` or
        ``OWNER/NAME/SUBFOLDER`` of the hub, or the name of weights that ship with this package.
      task: which network.
      config: the whole config; None takes ``config.json`` beside the weights, or else what the
        shapes of the tensors tell.
      subfolder: of a folder or repository with several variants; its end is enough (``"M128"``).
      revision: branch, tag or commit of a hub repository.

    Raises:
      WeightsError: if there is nothing of the network, or it fits no config; in one line that names
        the file, the tensor, both shapes, and what to try.
      DamagedFileError: if a file that was written here was damaged.
    """
    path = find_bundled(source) or fetch(source)
    if not path.exists():
        if not is_repository(str(source)):
            raise WeightsError(
                f"there is no file or folder {source}; repositories of the hub are OWNER/NAME"
            )
        path, subfolder = download(str(source), subfolder=subfolder, revision=revision)
    elif revision is not None:
        raise WeightsError(f"{source} is no repository of the hub: it has no revision={revision!r}")
    path = _descend(path, subfolder)
    copies, ignored, others = [], {}, []
    for file in _weight_files(path):
        if _PART.search(file.stem):
            raise WeightsError(
                f"{file} is one of several parts of a network: join them in one file"
            )
        found, rest = _copies(file, read_specs(file), _ROOTS[task])
        copies += found
        if found:
            ignored |= rest
        else:
            others.append(file)
    if not copies:
        raise WeightsError(_no_network(path, task))
    model = _only([copy for copy in copies if not copy.averaged])
    averaged = _only([copy for copy in copies if copy.averaged])
    given = config
    config, table = _fit(path, task, given, [c for c in (model, averaged) if c])
    for copy in {id(c): c for c in (model, averaged) if c}.values():
        try:
            left = table.check(copy.tensors)
        except WeightsError as error:
            raise WeightsError(
                f"{copy.name} does not fit: {error}; {_remedy(path, given)}"
            ) from error
        ignored |= {copy.prefix + key: reason for key, reason in left.items()}
    step = _step(path) or read_about((averaged or model).path).get("step")
    return Source(path, config, table, model, averaged, ignored, tuple(others), step)


def _no_network(path: Path, task: Task) -> str:
    """Says what there is instead of a network."""
    names = [name for file in _weight_files(path) for name in read_specs(file)]
    for other in _ROOTS.keys() - {task}:
        if any(not _ROOTS[other].isdisjoint(name.split(".")) for name in names):
            return f"{path} has the weights of a {other}, not of a {task}: give those"
    begin = sorted({name.split(".")[0] for name in names})[:4]
    return (
        f"{path} has no tensors of a {task}: its names begin with {', '.join(begin) or 'nothing'}, "
        f"not with {', '.join(sorted(_ROOTS[task]))}; is it the file of another network?"
    )


def _fit(
    path: Path, task: Task, config: ConfigDict | None, copies: Sequence[Copy]
) -> tuple[ConfigDict, WeightTable]:
    """The config of the weights and its table; a config that others gave is compared with them."""
    copy = copies[0]
    given = config or _config_beside(path)
    try:
        inferred = infer_config({k: spec.shape for k, spec in copy.tensors.items()}, str(copy.path))
        if given is None:
            return inferred, published_table(inferred)
    except WeightsError as error:
        if given is None:
            raise WeightsError(f"{copy.name}: {error}") from error
        return given, _table_of(given, path)
    if task_name(given) != task:
        whose = "the config given for it" if config else "the config.json beside it"
        raise WeightsError(f"{path}: {whose} is of a {task_name(given)}, and a {task} is asked for")
    table = _table_of(given, path)
    deeper = published_table(inferred).used.keys() & copy.tensors.keys() - table.used.keys()
    if deeper:
        raise WeightsError(
            f"{copy.name} has {len(deeper)} tensors more than the config's network, such as "
            f"{min(deeper)}: is it the config of another model?"
        )
    return given, table


def _remedy(path: Path, given: ConfigDict | None) -> str:
    """Tells what to try where tensors do not fit a config."""
    if given is not None:
        return "is it the config of another model? Without one it is told by the tensors' shapes"
    if _config_beside(path):
        return "is the config.json beside it that of another model?"
    return "is it whole, and of this network? Of another one give the config"


def _table_of(config: ConfigDict, path: Path) -> WeightTable:
    """The table of a config that others gave."""
    try:
        return published_table(config)
    except (AttributeError, KeyError, TypeError) as error:
        lacks = " ".join(str(error).split())[:80].strip("'\"")
        raise WeightsError(
            f"the config for {path} is none of a {task_name(config)}: its model has no {lacks}; "
            "without one it is told by the tensors' shapes"
        ) from error


def _config_beside(path: Path) -> ConfigDict | None:
    """The config that ``save_pretrained`` wrote; other programs' ``config.json`` does not count."""
    run = RunDirectory(path if path.is_dir() else path.parent)
    if not run.config.is_file():
        return None
    try:
        config = read_config(run)
    except CheckpointError as error:
        raise WeightsError(f"{error}: mend it, or take it away") from error
    return config if "model" in config and "task" in config else None


def _descend(path: Path, subfolder: str | None) -> Path:
    """The folder that has the weights: itself, the one sub-folder that has some, the newest step.

    Raises:
      WeightsError: if there are several variants, or none.
    """
    if subfolder and path.is_dir():
        path = _variant(path, subfolder)
    if path.is_file() or _weight_files(path):
        return path
    inside = sorted(folder for folder in path.iterdir() if folder.is_dir())
    inside = [folder for folder in inside if _weight_files(folder)]
    steps = {folder: _step(folder) for folder in inside}
    if inside and None not in steps.values():
        return max(inside, key=lambda folder: (steps[folder], folder.name))
    if len(inside) > 1:
        names = ", ".join(folder.name for folder in inside)
        raise WeightsError(f"{path} has several variants, give one as the sub-folder: {names}")
    if not inside:
        names = sorted(file.name for file in path.iterdir())
        there = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        raise WeightsError(
            f"{path} has no weights ({', '.join(_SUFFIXES)}): "
            + (f"only {there}" if there else "it is empty")
        )
    return inside[0]


def _variant(path: Path, subfolder: str) -> Path:
    """The sub-folder of this name, or the only one whose name ends so."""
    if (path / subfolder).is_dir():
        return path / subfolder
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    found = [f for f in folders if f.name.lower().endswith(subfolder.lower())]
    if len(found) != 1:
        names = ", ".join(folder.name for folder in folders) or "none"
        raise WeightsError(f"{path} has no sub-folder {subfolder!r}; there are: {names}")
    return found[0]


def _weight_files(path: Path) -> list[Path]:
    """The files that may hold networks; of safetensors and pickles of one folder, the first."""
    if path.is_file():
        return [path]
    files = [file for file in sorted(path.iterdir()) if file.is_file()]
    files = [f for f in files if f.suffix in _SUFFIXES and not _NO_NETWORK.match(f.name)]
    return [file for file in files if file.suffix == ".safetensors"] or files


def _copies(
    file: Path, tensors: Mapping[str, TensorSpec], roots: set[str]
) -> tuple[list[Copy], dict[str, str]]:
    """The copies of a network in one file, and why each other tensor is left alone."""
    by_prefix: dict[str, dict[str, TensorSpec]] = {}
    rest = {}
    for key, spec in tensors.items():
        parts = key.split(".")
        start = next((i for i, part in enumerate(parts) if part in roots), None)
        if start is not None:
            prefix = "".join(f"{part}." for part in parts[:start])
            by_prefix.setdefault(prefix, {})[".".join(parts[start:])] = spec
        elif parts[-1] in _COUNTERS:
            rest[key] = "a counter of the moving average"
        else:
            rest[key] = "not a part of this network"
    copies = []
    for prefix, specs in sorted(by_prefix.items()):
        if 2 * len({key.split(".")[0] for key in specs} & roots) >= len(roots):
            copies.append(Copy(file, prefix, specs))
        else:  # some other network that has a part of one of these names
            rest |= dict.fromkeys((prefix + key for key in specs), "not a part of this network")
    return copies, rest


def _only(copies: list[Copy]) -> Copy | None:
    """The only copy; where the averaging kept the network too, that of the network's own file."""
    if len(copies) > 1:
        copies = [copy for copy in copies if "online_model" not in copy.prefix] or copies
    if len(copies) > 1:
        names = "; ".join(copy.name for copy in copies)
        raise WeightsError(f"there are several copies of the network, give one alone: {names}")
    return copies[0] if copies else None


def _step(path: Path) -> int | None:
    """From a name like ``checkpionts.00600000`` (the release's spelling) or ``checkpoint_3``."""
    match = re.search(r"[._-](\d+)$", path.name) if path.is_dir() else None
    return int(match[1]) if match else None
