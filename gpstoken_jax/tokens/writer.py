"""Writes a directory of tokens, shard by shard; an interrupted run goes on at the next shard."""

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpstoken_jax.runtime.files import sealed_json
from gpstoken_jax.runtime.manifest import read_manifest
from gpstoken_jax.runtime.outputs import open_output
from gpstoken_jax.tokens import coded
from gpstoken_jax.tokens.format import (
    INDEX,
    KIND,
    STORAGE,
    VERSION,
    Header,
    ShardInfo,
    TokensError,
    open_shard,
    read_index,
    shard_bytes,
    shard_name,
)
from gpstoken_jax.tokens.statistics import Moments, statistics_of_channels

# Where things lie may change between two calls; what they are is in the fingerprints.
_PLACES = ("checkpoint", "data")


class TokenWriter:
    """One process's share of a directory of tokens.

    Images are numbered by their position in the data set. Process p of P has the positions p,
    p + P, p + 2 P, ..., and puts ``shard_size`` of them at a time into a shard.

    Args:
      directory: made if it is not there. If it has tokens, they must be of the same settings.
      settings: what the tokens depend on and readers want to know; anything that JSON can hold.
      num_images: of the whole data set.
      storage: dtype of the features on disk, a key of ``STORAGE``.
      bits: of a value, in place of ``storage``: tokens in levels, entropy-coded, see ``codec``.
      tiles: (rows, columns) of an image, for tokens in bits.
      shard_size: images a shard, read or not.
      made_from: what else the tokens depend on, beside the settings: fingerprints of the data.
      inputs: files and directories that must not lie in the directory, nor around it.
      overwrite: delete tokens of other settings.
      process_index: which of the processes this is.
      process_count: how many there are.

    Raises:
      OutputError: if the directory has tokens of other settings (names the first difference) or
        something else, or overlaps with an input.
    """

    def __init__(
        self,
        directory: str | Path,
        settings: Header,
        num_images: int,
        *,
        storage: str = "float32",
        bits: int | None = None,
        tiles: tuple[int, int] = (1, 1),
        shard_size: int = 1024,
        made_from: Mapping[str, Any] | None = None,
        inputs: Iterable[str | Path] = (),
        overwrite: bool = False,
        process_index: int = 0,
        process_count: int = 1,
    ):
        if storage not in STORAGE:
            raise ValueError(f"storage must be one of {', '.join(STORAGE)}, got {storage!r}")
        self.header = {
            "version": VERSION,
            **json.loads(json.dumps(settings)),
            "storage": storage,
            **({"bits": bits} if bits else {}),
            "num_images": num_images,
            "shard_size": shard_size,
            "processes": process_count,
        }
        self._tiles = tiles
        self._process, self._processes = process_index, process_count
        own = range(process_index, num_images, process_count)
        self.shards = [own[i : i + shard_size] for i in range(0, len(own), shard_size)]
        depends = {key: value for key, value in self.header.items() if key not in _PLACES}
        self._output = open_output(
            directory,
            KIND,
            depends | dict(made_from or {}),
            inputs=inputs,
            overwrite=overwrite,
            process=process_index,
        )
        self.directory = self._output.directory

    def unfinished(self) -> list[int]:
        """Numbers of this process's shards that are not on disk yet."""
        return [i for i in range(len(self.shards)) if not self._output.has(self._name(i))]

    def verify(self) -> None:
        """Reads what is there and compares it with what was written.

        Raises:
          DamagedFileError: for a file that is not what was written; names it.
        """
        if self._output.complete:
            manifest = read_manifest(self.directory, KIND)
            for name in manifest.files:
                manifest.check(name)

    def close(self) -> None:
        """Lets go of the directory before it is finished."""
        self._output.close()

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
        if bits := self.header.get("bits"):
            tensors, _ = coded.encode_rows(rows["geometry"], rows["features"], bits, self._tiles)
        else:
            tensors = {
                "geometry": rows["geometry"].astype(np.float32),
                "initial_geometry": rows["initial_geometry"].astype(np.float32),
                "features": rows["features"].astype(STORAGE[self.header["storage"]]),
            }
        tensors |= {
            "label": rows["label"].astype(np.int32),
            "size": rows["size"].astype(np.int32),
            "position": rows["position"].astype(np.int64),
        }
        info = ShardInfo(tuple(names), dict(unreadable), Moments.of(values))
        self._output.write(self._name(shard), shard_bytes(tensors, self.header, info))

    def finish_if_all_there(self, notes: Mapping[str, Any]) -> dict[str, Any] | None:
        """The index if all shards are there, see ``finish``; else None, for a share of the work."""
        self._output.share()
        self._output.gather()
        if self._output.complete:
            return self.finish(notes)
        with self._output.only_one() as alone:
            if not alone or any(not self._output.has(name) for name in self._all_names()):
                self.close()
                return None
            return self.finish(notes)

    def finish(self, notes: Mapping[str, Any]) -> dict[str, Any]:
        """Writes index.json once the shards of all processes are there; for one process to call.

        Args:
          notes: more to keep in the index, beside what the shards say.

        Returns:
          The index.

        Raises:
          TokensError: if a shard is missing.
          DamagedFileError: if something is not what was written.
        """
        if self._output.complete:
            self.close()
            return read_index(self.directory)
        self._output.gather()
        paths = [self.directory / name for name in self._all_names()]
        missing = [path.name for path in paths if not path.exists()]
        if missing:
            raise TokensError(f"{self.directory} misses {len(missing)} shard(s): {missing[0]} ...")
        infos = [open_shard(path)[1] for path in paths]
        index = {
            "header": self.header,
            "num_tokenized": sum(len(info.names) for info in infos),
            "shards": {p.name: len(i.names) for p, i in zip(paths, infos, strict=True)},
            "unreadable": {k: v for info in infos for k, v in info.unreadable.items()},
            "statistics": statistics_of_channels(
                functools.reduce(Moments.merge, (info.moments for info in infos))
            ),
            **notes,
        }
        self._output.write(INDEX, sealed_json(index))
        self._output.finish()
        return index

    def _all_names(self) -> list[str]:
        names = []
        for process in range(self._processes):
            count = len(range(process, self.header["num_images"], self._processes))
            shards = -(-count // self.header["shard_size"])
            names += [shard_name(process, self._processes, shard) for shard in range(shards)]
        return names

    def _name(self, shard: int) -> str:
        return shard_name(self._process, self._processes, shard)
