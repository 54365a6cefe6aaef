"""Writes a directory of tokens, shard by shard; an interrupted run goes on at the next shard."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpstoken_jax.tokens.format import (
    STORAGE,
    VERSION,
    Header,
    ShardInfo,
    TokensError,
    as_json,
    first_difference,
    read_index,
    read_info,
    shard_name,
    write_index,
    write_shard,
)
from gpstoken_jax.tokens.statistics import Moments

# A run's directory may be moved while it is being encoded; the weights' checksum may not change.
_MAY_DIFFER = ("checkpoint",)


class TokenWriter:
    """One process's share of a directory of tokens.

    Images are numbered by their position in the data set. Process p of P has the positions p,
    p + P, p + 2 P, ..., and puts ``shard_size`` of them at a time into a shard.

    Args:
      directory: made if it is not there. If it has tokens, they must be of the same settings.
      settings: what the tokens depend on and readers want to know; anything that JSON can hold.
      num_images: of the whole data set.
      storage: dtype of the features on disk, a key of ``STORAGE``.
      shard_size: images a shard, read or not.
      process_index: which of the processes this is.
      process_count: how many there are.

    Raises:
      TokensError: if the directory has tokens of other settings; names the first difference.
    """

    def __init__(
        self,
        directory: str | Path,
        settings: Header,
        num_images: int,
        *,
        storage: str = "float32",
        shard_size: int = 1024,
        process_index: int = 0,
        process_count: int = 1,
    ):
        if storage not in STORAGE:
            raise ValueError(f"storage must be one of {', '.join(STORAGE)}, got {storage!r}")
        self.directory = Path(directory)
        self.header = {
            "version": VERSION,
            **as_json(settings),
            "storage": storage,
            "num_images": num_images,
            "shard_size": shard_size,
            "processes": process_count,
        }
        self._process, self._processes = process_index, process_count
        own = range(process_index, num_images, process_count)
        self.shards = [own[i : i + shard_size] for i in range(0, len(own), shard_size)]
        self.directory.mkdir(parents=True, exist_ok=True)
        self._check_index()

    def unfinished(self) -> list[int]:
        """Numbers of this process's shards that are not on disk yet.

        Raises:
          TokensError: if one that is there has other settings.
        """
        return [shard for shard in range(len(self.shards)) if not self._is_written(shard)]

    def write(
        self,
        shard: int,
        rows: Mapping[str, np.ndarray],
        names: list[str],
        unreadable: Mapping[str, str],
    ) -> None:
        """Writes a shard.

        Args:
          shard: its number among this process's.
          rows: geometry, initial_geometry, features, label, size and position of the readable
            images, as in ``format``; features in any float dtype.
          names: their names.
          unreadable: name and reason of the others.
        """
        values = np.concatenate(
            [rows["geometry"] - rows["initial_geometry"], rows["features"]], axis=-1
        )
        tensors = {
            "geometry": rows["geometry"].astype(np.float32),
            "initial_geometry": rows["initial_geometry"].astype(np.float32),
            "features": rows["features"].astype(STORAGE[self.header["storage"]]),
            "label": rows["label"].astype(np.int32),
            "size": rows["size"].astype(np.int32),
            "position": rows["position"].astype(np.int64),
        }
        info = ShardInfo(tuple(names), dict(unreadable), Moments.of(values))
        write_shard(self._path(shard), tensors, self.header, info)

    def finish(self, notes: Mapping[str, Any]) -> dict[str, Any]:
        """Writes index.json once the shards of all processes are there; for one process to call.

        Args:
          notes: more to keep in the index, beside what the shards say.

        Returns:
          The index.

        Raises:
          TokensError: if a shard is missing.
        """
        paths = self._all_paths()
        missing = [path.name for path in paths if not path.exists()]
        if missing:
            raise TokensError(f"{self.directory} misses {len(missing)} shard(s): {missing[0]} ...")
        infos = [read_info(path)[1] for path in paths]
        index = {
            "header": self.header,
            "num_tokenized": sum(len(info.names) for info in infos),
            "shards": {p.name: len(i.names) for p, i in zip(paths, infos, strict=True)},
            "unreadable": {k: v for info in infos for k, v in info.unreadable.items()},
            "statistics": _statistics([info.moments for info in infos]),
            **notes,
        }
        write_index(self.directory, index)
        return index

    def _all_paths(self) -> list[Path]:
        names = []
        for process in range(self._processes):
            count = len(range(process, self.header["num_images"], self._processes))
            shards = -(-count // self.header["shard_size"])
            names += [shard_name(process, self._processes, shard) for shard in range(shards)]
        return [self.directory / name for name in names]

    def _path(self, shard: int) -> Path:
        return self.directory / shard_name(self._process, self._processes, shard)

    def _is_written(self, shard: int) -> bool:
        path = self._path(shard)
        if not path.exists():
            return False
        self._check_same(read_info(path)[0])
        return True

    def _check_index(self) -> None:
        """Any finished shard speaks for the directory, also before there is an index."""
        if index := read_index(self.directory):
            self._check_same(index["header"])
        elif written := sorted(self.directory.glob("tokens-*.safetensors")):
            self._check_same(read_info(written[0])[0])

    def _check_same(self, header: Header) -> None:
        ours = {**self.header, **{key: header.get(key) for key in _MAY_DIFFER}}
        if difference := first_difference(header, ours):
            raise TokensError(
                f"{self.directory} has tokens of other settings: {difference}. "
                "Use those, or another --output."
            )


def _statistics(parts: list[Moments]) -> dict[str, Any]:
    """Mean and std of every channel: the geometry's deltas, then the features."""
    total = functools.reduce(Moments.merge, parts)
    channels = {"geometry_delta": np.s_[:5], "features": np.s_[5:]}
    return {"num_tokens": total.count} | {
        name: {"mean": total.mean[part].tolist(), "std": total.std[part].tolist()}
        for name, part in channels.items()
    }
