"""Random access to a directory of tokens."""

import bisect
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gpstoken_jax.runtime.buckets import fetch
from gpstoken_jax.runtime.files import reading
from gpstoken_jax.runtime.fingerprints import fingerprint_files
from gpstoken_jax.runtime.manifest import MANIFEST, read_manifest
from gpstoken_jax.tokens import coded
from gpstoken_jax.tokens.format import (
    CODED_ROWS,
    INDEX,
    KIND,
    ROWS,
    VERSION,
    TokensError,
    index_of_shard,
    open_shard,
    read_index,
)

_OPEN_SHARDS = 64  # files kept open


@dataclass(frozen=True)
class TokenExample:
    """One image's tokens; float32 whatever the storage.

    Attributes:
      geometry: refined Gaussians (sigma_x, sigma_y, rho, mu_x, mu_y).
      initial_geometry: those of the partition, in the same order; None of tokens in bits.
      features: a feature vector a Gaussian.
      label: index into the data set's ``label_names``, -1 for none.
      name: the image's name.
      size: (height, width) of the original image.
      position: of the image in the data set that was encoded.
    """

    geometry: Float[np.ndarray, "l 5"]
    initial_geometry: Float[np.ndarray, "l 5"] | None
    features: Float[np.ndarray, "l c"]
    label: int
    name: str
    size: tuple[int, int]
    position: int

    @property
    def tokens(self) -> Float[np.ndarray, "l 5+c"]:
        """The input of ``GPSToken.decode``."""
        return np.concatenate([self.geometry, self.features], axis=-1)


class TokenDataset:
    """A sequence of ``TokenExample``; can be pickled, so that worker processes can read too.

    Args:
      directory: that gpstoken encode wrote; or one file of it, or of the viewer.

    Attributes:
      header: the settings of the tokens: config, checkpoint, partition, num_tokens, storage, ...
      index: everything in index.json.
    """

    def __init__(self, directory: str | Path):
        path = fetch(directory)
        single = path.is_file()
        self.directory = path.parent if single else path
        index = index_of_shard(path) if single else read_index(path)
        self._single = single
        if index is None:
            raise TokensError(
                f"{self.directory} has no index.json: it holds no tokens, or encode has not "
                "finished (run it again with the same flags)"
            )
        self.index: dict[str, Any] = index
        self.header: dict[str, Any] = index["header"]
        self._files = list(index["shards"])
        self._ends = list(itertools.accumulate(index["shards"].values()))
        self._open: OrderedDict[int, tuple[Any, tuple[str, ...]]] = OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> TokenExample:
        """Tokens of one image; reads no others.

        Raises:
          IndexError: beyond the end.
          TokensError: if its shard is missing or damaged.
        """
        index = range(len(self))[index]
        rows, names = self._read(index, index + 1)
        return _example(rows, names, 0)

    def __iter__(self) -> Iterator[TokenExample]:
        return (self[i] for i in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

    @property
    def normalisation(self) -> tuple[Float[np.ndarray, " 5+c"], Float[np.ndarray, " 5+c"]]:
        """Mean and std of each channel of ``(geometry - initial_geometry, features)``.

        Over all tokens of all images. A generator of tokens is trained on values of mean 0 and
        standard deviation 1.
        """
        parts = [self.index["statistics"][key] for key in ("geometry_delta", "features")]
        mean, std = (np.concatenate([part[key] for part in parts]) for key in ("mean", "std"))
        return mean.astype(np.float32), std.astype(np.float32)

    @property
    def copies(self) -> int:
        """Entries of each image, one after another: 2 with its mirror image, or its crops."""
        return 2 if self.header.get("mirrored") else self.header.get("passes", 1)

    def fingerprint(self) -> str:
        """A digest that changes with the tokens.

        Raises:
          TokensError: if the manifest is damaged.
        """
        if self._single:
            (name,) = self._files
            return fingerprint_files([(name, self.directory / name)], content=True)
        if not (self.directory / MANIFEST).exists():  # of version 1: by size and date
            names = (INDEX, *self._files)
            return fingerprint_files((name, self.directory / name) for name in names)
        try:
            manifest = read_manifest(self.directory, KIND)
        except ValueError as error:
            raise TokensError(str(error)) from error
        records = "".join(f"{name} {record.sha256}\n" for name, record in manifest.files.items())
        return sha256(records.encode()).hexdigest()[:32]

    def names(self) -> list[str]:
        """The names of all images."""
        return [name for shard in range(len(self._files)) for name in self._shard(shard)[1]]

    def column(self, name: str) -> np.ndarray:
        """One kind of row of all images, without reading the others, e.g. ``"label"``."""
        parts = [self._shard(i)[0].get_tensor(name) for i in range(len(self._files))]
        return np.concatenate(parts) if parts else np.zeros(0)

    def read(self, start: int, stop: int) -> tuple[dict[str, np.ndarray], list[str]]:
        """Consecutive images as arrays: the rows of ``format`` by name, and the images' names.

        Tokens in bits have no ``initial_geometry``.
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        parts, names = [], []
        while start < stop:
            end = min(stop, self._ends[bisect.bisect_right(self._ends, start)])
            rows, some = self._read(start, end)
            parts.append(rows)
            names += some
            start = end
        keys = CODED_ROWS if "bits" in self.header else ROWS
        return {key: np.concatenate([part[key] for part in parts]) for key in keys}, names

    def check_initial_geometry(self) -> None:
        """Checks that the initial Gaussians are there, which generators need.

        Raises:
          TokensError: if the tokens are in bits.
        """
        if "bits" in self.header:
            raise TokensError(
                f"{self.directory} has tokens in {self.header['bits']} bits, without their initial "
                "Gaussians: for a generator encode without --bits"
            )

    def _read(self, start: int, stop: int) -> tuple[dict[str, np.ndarray], list[str]]:
        """Rows of one shard; features become float32."""
        shard = bisect.bisect_right(self._ends, start)
        first = self._ends[shard] - self.index["shards"][self._files[shard]]
        file, names = self._shard(shard)
        part = slice(start - first, stop - first)
        kept = file.keys()
        rows = {key: file.get_slice(key)[part] for key in ROWS if key in kept}
        if "bits" in self.header:
            path = self.directory / self._files[shard]
            with reading(path, "of a directory of tokens", TokensError):
                rows |= coded.read_rows(file, part.start, part.stop)
        rows["features"] = rows["features"].astype(np.float32)
        return rows, list(names[part])

    def _shard(self, shard: int) -> tuple[Any, tuple[str, ...]]:
        """The open file of a shard and its names; the one unused longest is closed for it."""
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        path = self.directory / self._files[shard]
        file, info = open_shard(path, sealed=self.header["version"] == VERSION)
        if len(info.names) != self.index["shards"][path.name]:
            raise TokensError(f"{path} has {len(info.names)} images, the index says otherwise")
        self._open[shard] = file, info.names
        if len(self._open) > _OPEN_SHARDS:
            self._open.popitem(last=False)
        return self._open[shard]


def open_tokens(directory: str | Path) -> TokenDataset:
    """Opens a directory that gpstoken encode wrote, or a single file of tokens.

    Raises:
      TokensError: if it has no finished tokens.
    """
    return TokenDataset(directory)


def _example(rows: dict[str, np.ndarray], names: list[str], i: int) -> TokenExample:
    return TokenExample(
        geometry=rows["geometry"][i],
        initial_geometry=rows["initial_geometry"][i] if "initial_geometry" in rows else None,
        features=rows["features"][i],
        label=int(rows["label"][i]),
        name=names[i],
        size=(int(rows["size"][i, 0]), int(rows["size"][i, 1])),
        position=int(rows["position"][i]),
    )
