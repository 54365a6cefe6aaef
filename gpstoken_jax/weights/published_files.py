"""Finds a network's weights in what PyTorch training leaves: one safetensors file, or a folder.

A published file holds plain names. A training checkpoint of the release is a folder that Hugging
Face Accelerate wrote: ``model.safetensors`` (the network), ``model_1.safetensors`` (its averaged
copy as ema_pytorch keeps it: ``ema_model.NAME``, ``online_model.NAME``, ``initted``, ``step``) and
the loss networks; with several GPUs every name begins with ``module.``. So a name is taken apart
where the network's own names begin, and what stands before says which copy of the network it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from gpstoken_jax.weights.table import TensorSpec, WeightsError

_AVERAGED = {"ema_model", "ema", "model_ema"}
_COUNTERS = {"initted", "step"}  # of ema_pytorch
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Copy:
    """One copy of a network inside a file; nothing is read before ``load``.

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
        return not _AVERAGED.isdisjoint(self.prefix.split("."))

    @property
    def name(self) -> str:
        return f"{self.path}" + (f" ({self.prefix}*)" if self.prefix else "")

    def load(self) -> dict[str, np.ndarray]:
        """Reads the tensors, by the network's own names."""
        with safe_open(self.path, framework="np") as file:
            return {key: file.get_tensor(self.prefix + key) for key in self.tensors}


@dataclass(frozen=True)
class ReleaseWeights:
    """What a file or folder holds of a network.

    Attributes:
      model: the trained weights, None if there are only averaged ones.
      averaged: their moving average, None if there is none.
      left: names of tensors that are no part of the network, each with the reason.
      other_files: safetensors files of other networks.
      step: the training step in a checkpoint folder's name, None if it has none.
    """

    model: Copy | None
    averaged: Copy | None
    left: Mapping[str, str]
    other_files: tuple[Path, ...]
    step: int | None


def find_weights(path: str | Path, roots: set[str]) -> ReleaseWeights:
    """Looks through a safetensors file or a folder of them.

    Args:
      path: the file or folder.
      roots: first parts of the network's own names, e.g. ``{"decoder", "to_gps", ...}``.

    Raises:
      WeightsError: if nothing of the network is there, a tensor belongs to nothing known, or there
        are several copies to choose from.
      OSError: if the path does not exist.
    """
    path = Path(path)
    copies, left, others = [], {}, []
    for file in _files(path):
        tensors = _read_specs(file)
        found, rest = _copies(file, tensors, roots)
        if found:
            copies += found
            left |= rest
        else:
            others.append(file)
    if not copies:
        raise WeightsError(
            f"{path} has no tensor of this network: no name has one of {', '.join(sorted(roots))}"
        )
    return ReleaseWeights(
        _only([copy for copy in copies if not copy.averaged]),
        _only([copy for copy in copies if copy.averaged]),
        left,
        tuple(others),
        _step(path),
    )


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if path.is_file():
        return [path]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        kinds = sorted({file.suffix for file in path.iterdir() if file.suffix})
        raise WeightsError(
            f"{path} has no .safetensors file (only {', '.join(kinds) or 'nothing'}): give one, or "
            "a folder that Accelerate wrote; pickled PyTorch files are not read"
        )
    return files


def _read_specs(file: Path) -> dict[str, TensorSpec]:
    """Shapes and dtypes by name, from the header alone."""
    try:
        with safe_open(file, framework="np") as opened:
            slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118
            return {
                key: TensorSpec(tuple(s.get_shape()), _DTYPES.get(s.get_dtype(), s.get_dtype()))
                for key, s in slices.items()
            }
    except SafetensorError as error:
        raise WeightsError(f"{file} is not a readable safetensors file: {error}") from error


def _copies(
    file: Path, tensors: Mapping[str, TensorSpec], roots: set[str]
) -> tuple[list[Copy], dict[str, str]]:
    """The copies of a network in one file, and why each other tensor is left alone."""
    by_prefix: dict[str, dict[str, TensorSpec]] = {}
    rest = []
    for key, spec in tensors.items():
        parts = key.split(".")
        start = next((i for i, part in enumerate(parts) if part in roots), None)
        if start is None:
            rest.append(key)
        else:
            prefix = "".join(f"{part}." for part in parts[:start])
            by_prefix.setdefault(prefix, {})[".".join(parts[start:])] = spec
    unknown = [key for key in rest if key.split(".")[-1] not in _COUNTERS]
    if by_prefix and unknown:
        raise WeightsError(f"{file} has tensors of something else: {', '.join(unknown[:8])}")
    copies = [Copy(file, prefix, specs) for prefix, specs in sorted(by_prefix.items())]
    return copies, dict.fromkeys(rest, "a counter of the moving average")


def _only(copies: list[Copy]) -> Copy | None:
    """The only copy; where the averaging kept the network too, that of the network's own file."""
    if len(copies) > 1:
        copies = [copy for copy in copies if "online_model" not in copy.prefix] or copies
    if len(copies) > 1:
        names = "; ".join(copy.name for copy in copies)
        raise WeightsError(f"there are several copies of the network, give one alone: {names}")
    return copies[0] if copies else None


def _step(path: Path) -> int | None:
    """From a name like ``checkpionts.00600000`` (the release's spelling)."""
    ending = path.name.rsplit(".", 1)[-1]
    return int(ending) if path.is_dir() and ending.isdigit() else None
