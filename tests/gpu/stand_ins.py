"""Stand-ins for packages that the measured programs import but need nothing of.

A machine that is lent for minutes has JAX, Flax, Optax and NumPy and often no way to get more. The
model and the training step work there all the same: configs need a `ConfigDict` of few methods, and
readers of data sets, writers of plots and the like are imported but not called.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterator, MutableMapping
from typing import Any

PACKAGES = (
    "PIL",
    "array_record",
    "clu",
    "constriction",
    "diffrax",
    "dm_pix",
    "grain",
    "jaxtyping",
    "matplotlib",
    "ml_collections",
    "pillow_heif",
    "safetensors",
    "simplejpeg",
    "tensorboardX",
    "tensorflow_datasets",
)


class ConfigDict(MutableMapping):
    """Nested settings as attributes and as items, as far as configs here use them."""

    def __init__(self, values: Any = (), **more: Any):
        object.__setattr__(self, "_values", {})
        self.update(values, **more)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[name] = ConfigDict(value) if isinstance(value, dict) else value

    def __delitem__(self, name: str) -> None:
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self._values:
            raise AttributeError(name)
        return self._values[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def update(self, values: Any = (), **more: Any) -> None:
        """Sets values; of a section that is there, only what is given."""
        for name, value in {**dict(values), **more}.items():
            section = self._values.get(name)
            if isinstance(section, ConfigDict) and isinstance(value, dict | ConfigDict):
                section.update(value)
            else:
                self[name] = value


class _Anything(type):
    """Classes that may stand in annotations, as bases, as decorators and in calls at import."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent

    def __call__(cls, *arguments: Any, **_: Any) -> Any:
        decorates = len(arguments) == 1 and isinstance(arguments[0], types.FunctionType)
        return arguments[0] if decorates else Absent

    def __getitem__(cls, key: Any) -> Any:
        return Any

    def __or__(cls, other: Any) -> Any:
        return Any

    __ror__ = __or__

    def __iter__(cls) -> Iterator[Any]:
        return iter(())


class Absent(metaclass=_Anything):
    """Anything of a package that is not installed. No array: a computation with it fails."""


class _Module(types.ModuleType):
    def __init__(self, name: str):
        super().__init__(name)
        self.__path__ = []  # so that modules inside it are asked of the finder, too

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.__name__.partition(".")[0] == "ml_collections":
            return {"ConfigDict": ConfigDict, "placeholder": lambda _: None}.get(name, Absent)
        return Absent


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: frozenset[str]):
        self.names = names

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Finds modules of the packages that are missing."""
        if name.partition(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        """An empty module that has any name."""
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing: there is no code."""


def install(hidden: tuple[str, ...] = ()) -> list[str]:
    """Puts stand-ins where packages are missing, or `hidden`; returns their names."""
    missing = [n for n in PACKAGES if n in hidden or importlib.util.find_spec(n) is None]
    if missing:
        sys.meta_path.insert(0, _Finder(frozenset(missing)))
    return missing
