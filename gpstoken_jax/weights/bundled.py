"""Weights that ship with this package, by name."""

from importlib import resources
from pathlib import Path

WEIGHTS = "model.safetensors"
_FOLDER = "pretrained"


def bundled_names() -> list[str]:
    """Lists the weights that ship with this package."""
    folder = resources.files("gpstoken_jax") / _FOLDER
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if (entry / WEIGHTS).is_file())


def find_bundled(source: str | Path) -> Path | None:
    """Finds weights that ship with this package by their name, if no path of that name is there."""
    if str(source) not in bundled_names() or Path(source).expanduser().exists():
        return None
    return Path(str(resources.files("gpstoken_jax") / _FOLDER / str(source)))
