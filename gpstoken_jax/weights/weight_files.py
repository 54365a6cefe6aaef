"""Weights of a frozen network from a file that a user gives: PyTorch's or safetensors, checked."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from gpstoken_jax.weights.torch_pickle import read_torch_file

Tensors = Mapping[str, np.ndarray]
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # of training checkpoints
_NAMED = 4  # tensors listed in an error; the rest are counted


class WeightFileError(ValueError):
    """A file does not hold the weights that it should; the message names file and tensors."""


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a `.safetensors` or PyTorch file by name.

    A training checkpoint that keeps them under "state_dict", "model_state_dict" or "model" is
    looked into. Raises WeightFileError or UnsafePickleError (both ValueError) naming the file when
    it holds something else, and OSError when it cannot be opened. Nothing in it is executed.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        path.open("rb").close()  # an ordinary error for a missing file
        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightFileError(f"{path} is not a safetensors file: {error}") from error
    value = read_torch_file(path)
    for wrapper in _WRAPPERS:
        if isinstance(value, dict) and isinstance(value.get(wrapper), dict):
            value = value[wrapper]
    if not isinstance(value, dict) or not value:
        raise WeightFileError(f"{path} holds no tensors by name.")
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, np.ndarray):
            raise WeightFileError(f"{path} is not a state dict: {name!r} is no tensor.")
    return value


def select_tensors(
    tensors: Tensors,
    expected: Mapping[str, tuple[int, ...]],
    *,
    source: str | Path,
    network: str,
    ignored: Iterable[str] = (),
) -> dict[str, np.ndarray]:
    """Exactly the expected tensors, in float32, under the names of `expected`.

    A prefix that all names carry (`module.`, `inception.`) is taken off.
    ignored: last parts of names (`num_batches_tracked`) and first ones (`AuxLogits`) of tensors
    that the network does not need.
    Raises WeightFileError that names what is missing, left over, of another shape or not finite.
    """
    tensors = _without_prefix(tensors, next(iter(expected)))
    ignored = set(ignored)
    rest = [
        name
        for name in tensors
        if name not in expected and ignored.isdisjoint((name.split(".")[0], name.split(".")[-1]))
    ]
    found = expected.keys() & tensors.keys()
    wrong = [
        f"{name} {tensors[name].shape} instead of {tuple(expected[name])}"
        for name in sorted(found)
        if tensors[name].shape != tuple(expected[name])
    ]
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "unknown": rest,
        "of another shape": wrong,
    }
    _complain(problems, source, network)
    chosen = {name: np.asarray(tensors[name], np.float32) for name in expected}
    _complain(
        {"not finite": [n for n, t in chosen.items() if not np.isfinite(t).all()]}, source, network
    )
    return chosen


def _without_prefix(tensors: Tensors, known: str) -> Tensors:
    """Names without what stands before `known`, if that stands before all."""
    prefixes = [name.removesuffix(known) for name in tensors if name.endswith(f".{known}")]
    if known in tensors or len(prefixes) != 1:
        return tensors
    if not all(name.startswith(prefixes[0]) for name in tensors):
        return tensors
    return {name.removeprefix(prefixes[0]): tensor for name, tensor in tensors.items()}


def _complain(problems: Mapping[str, list[str]], source: str | Path, network: str) -> None:
    parts = [
        f"{len(names)} {kind} ({', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''})"
        for kind, names in problems.items()
        if names
    ]
    if parts:
        raise WeightFileError(f"{source} does not hold {network}: {'; '.join(parts)}.")
