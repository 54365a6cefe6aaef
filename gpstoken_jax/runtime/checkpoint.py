"""Checkpoints: Orbax, one directory a step, and a checksum of every tree and of every file.

A checkpoint is a few named trees (for a training run ``params``, ``ema_params``, ``optimizer``) and
``progress``, a JSON object. Each can be read without the others. A directory ``STEP`` appears,
whole, by a rename; what is still being written has another name and is swept away at next start.
Last comes ``manifest.json``, with length and SHA-256 of every file: who reads compares them.
With several processes only process 0 touches the disk; the others get what it read from it.
"""

import os
import re
import shutil
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from gpstoken_jax.runtime import processes
from gpstoken_jax.runtime.checkpoint_files import (
    MANIFEST,
    CheckpointError,
    DamagedCheckpointError,
    check_manifest,
    describe,
    list_files,
    reachable,
    write_manifest,
)
from gpstoken_jax.runtime.files import read_json, write_json
from gpstoken_jax.runtime.fingerprints import first_difference

Tree = Any
# What Orbax logs with tracebacks, it also raises, and that is said here in one line.
logging.get_absl_logger().addFilter(lambda record: "/orbax/" not in record.pathname)
DAMAGED = ".damaged"  # appended to the name of a directory that could not be read


class Checkpoints:
    """Saves trees under ``directory`` and restores the newest that can be read.

    Args:
      directory: made if it is not there.
      keep: how many of the newest are kept; 0 keeps all.

    Raises:
      ValueError: if ``keep`` is negative.
    """

    def __init__(self, directory: str | Path, *, keep: int):
        if keep < 0:
            raise ValueError(f"checkpoints to keep must be 0 (all) or more, not {keep}")
        self.directory = Path(directory).absolute()
        self._keep = keep
        self._saved: int | None = None  # the last step
        self._bytes = 0  # of the last checkpoint
        self._manager = None
        if jax.process_index() == 0:
            self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        self.directory.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            create=False,
            max_to_keep=self._keep or None,
            cleanup_tmp_directories=True,  # of saves that a killed process had begun
            multiprocessing_options=_alone(),
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
        )
        return ocp.CheckpointManager(reachable(self.directory), options=options)

    def _seal(self) -> None:
        """Writes the manifest into what is about to get its name; called in the background."""
        for path in self.directory.glob(f"{self._saved}.*tmp*"):
            write_manifest(path)

    def _complete_manifest(self) -> None:
        """Adds what Orbax has written while the checkpoint got its name."""
        if self._saved in steps(self.directory):
            path = self.directory / str(self._saved)
            files = read_json(path / MANIFEST)["files"]
            more = [name for name in list_files(path) if name not in files]
            if more:
                for name in more:
                    files[name] = describe(path / name)
                write_json(path / MANIFEST, {"files": files})

    def save(self, step: int, trees: Mapping[str, Tree], progress: Mapping[str, Any]) -> None:
        """Copies now, writes in the background; a checkpoint appears only when it is complete.

        Older ones beyond ``keep`` are deleted after that.

        Raises:
          CheckpointError: if this or the last one cannot be written.
        """
        if self._manager is None:
            return
        copies = jax.tree.map(_copy, dict(trees))
        self._bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(copies))
        items = {name: ocp.args.StandardSave(tree) for name, tree in copies.items()}
        items["checksums"] = ocp.args.JsonSave({name: checksum(t) for name, t in copies.items()})
        items["progress"] = ocp.args.JsonSave(dict(progress))
        try:
            self._manager.wait_until_finished()
            self._complete_manifest()
            self._saved = step
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except Exception as error:  # Orbax and TensorStore raise many kinds.
            raise self._not_written(error) from error

    def check(self) -> None:
        """Raises CheckpointError if writing in the background has failed."""
        if self._manager is not None:
            try:
                self._manager.check_for_errors()
                self._complete_manifest()
            except Exception as error:
                raise self._not_written(error) from error

    def restore_latest(
        self, templates: Mapping[str, Tree]
    ) -> tuple[int, dict[str, Tree], dict[str, Any]] | None:
        """The newest checkpoint that can be read; damaged newer ones are renamed, with a warning.

        Args:
          templates: for each name a tree of the expected structure, arrays or their shapes.

        Returns:
          The step, the trees on the host, and the progress, the same in all processes; None if
          there is no checkpoint at all.

        Raises:
          CheckpointError: if the newest readable one has other trees than the templates (the first
            difference is named), or if there are checkpoints and none can be read.
        """
        trees = {}

        def find() -> tuple[int, dict[str, Any]] | None:
            return self._find(templates, trees)

        found = processes.from_first(find)
        if found is None:
            return None
        step, progress = found
        return step, processes.broadcast(trees, dict(templates)), progress

    def _find(
        self, templates: Mapping[str, Tree], trees: dict[str, Tree]
    ) -> tuple[int, dict[str, Any]] | None:
        """Step and progress of the newest readable checkpoint; its trees are put in ``trees``."""
        damaged = []
        for step in sorted(steps(self.directory), reverse=True):
            try:
                progress = read_progress(self.directory, step)
                for name, template in templates.items():
                    trees[name] = read_tree(self.directory, name, template, step)
            except DamagedCheckpointError as error:
                logging.warning("%s; trying the one before", error)
                damaged.append((step, error))
                continue
            self._put_aside([step for step, _ in damaged])
            return step, progress
        if damaged:
            raise CheckpointError(f"no checkpoint can be read; the newest: {damaged[0][1]}")
        return None

    def _put_aside(self, damaged: list[int]) -> None:
        """Renames damaged checkpoints, so that the run can write these steps again."""
        if not damaged:
            return
        for step in damaged:
            target = self.directory / f"{step}{DAMAGED}"
            number = 1
            while target.exists():
                number += 1
                target = self.directory / f"{step}{DAMAGED}{number}"
            os.rename(self.directory / str(step), target)
            logging.warning("the damaged checkpoint is now %s; delete it if you like", target)
        self._manager.close()
        self._manager = self._open()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Finishes writing also when something else went wrong, which matters more."""
        try:
            self.close()
        except CheckpointError as not_written:
            if error is None:
                raise
            if error is not not_written:
                logging.warning("%s", not_written)

    def close(self) -> None:
        """Finishes writing and lets go of the directory.

        Raises:
          CheckpointError: if the last checkpoint could not be written.
        """
        if self._manager is not None:
            try:
                self._manager.wait_until_finished()
                self._manager.close()
                self._complete_manifest()
                if self._saved in steps(self.directory):
                    check_manifest(self.directory / str(self._saved))
            except Exception as error:
                raise self._not_written(error) from error

    def _not_written(self, error: Exception) -> CheckpointError:
        """With the free space, as TensorStore names another symptom each time the disk is full."""
        done = steps(self.directory)
        kept = f"step {max(done)} is the newest complete one" if done else "there is none yet"
        try:
            free = f"{shutil.disk_usage(self.directory).free / 2**20:.0f} MiB"
        except OSError:
            free = "no space"
        return CheckpointError(
            f"a checkpoint of {self._bytes / 2**20:.0f} MiB could not be written to "
            f"{self.directory}, where {free} is free ({kept}): {_reason(error)}"
        )


def load_tree(directory: str | Path, name: str, template: Tree, step: int) -> Tree:
    """One tree of one checkpoint, on this process's first device.

    Raises:
      CheckpointError: if it is missing, damaged or does not fit the template.
    """
    return jax.device_put(
        read_tree(Path(directory).absolute(), name, template, step), jax.local_devices()[0]
    )


def load_newest_tree(
    directory: str | Path, name: str, template: Tree, step: int | None = None
) -> tuple[int, Tree]:
    """A step and one of its trees: the newest that can be read, with a warning for those newer.

    Raises:
      CheckpointError: if there is none, it does not fit the template, or ``step`` is given and
        cannot be read.
    """
    if step is not None:
        return step, load_tree(directory, name, template, step)
    latest = latest_step(directory)
    for saved in sorted(steps(directory), reverse=True):
        try:
            return saved, load_tree(directory, name, template, saved)
        except DamagedCheckpointError as error:
            logging.warning("%s; trying the one before", error)
            if saved == latest:
                newest = error
    raise newest


def load_trees(directory: str | Path, step: int) -> dict[str, Tree]:
    """All trees of one checkpoint as they were written (lists for tuples), on the host.

    Raises:
      CheckpointError: if it is damaged, or was written by an early version, without checksums.
    """
    directory = Path(directory).absolute()
    names = _read_checksums(directory, step)
    if names is None:
        raise CheckpointError(f"{directory / str(step)} has no list of its trees")
    paths = {name: directory / str(step) / name for name in names}
    try:
        templates = {
            name: _handler().metadata(reachable(path)).tree for name, path in paths.items()
        }
    except Exception as error:
        raise _damaged(directory / str(step), error) from error
    return {name: read_tree(directory, name, tree, step) for name, tree in templates.items()}


def read_tree(directory: Path, name: str, template: Tree, step: int) -> Tree:
    """One tree of one checkpoint, on the host, its checksum compared.

    Raises:
      DamagedCheckpointError: if it is missing or cannot be read.
      CheckpointError: if it has other arrays than the template; names the first.
    """
    path = directory / str(step) / name
    check_manifest(path.parent, name, "checksums")
    expected = _read_checksums(directory, step)
    if expected is not None and name not in expected:
        raise CheckpointError(f"there is no {path}: the run's config was of another kind")
    if not path.is_dir():
        there = ", ".join(map(str, sorted(steps(directory)))) or "none"
        raise DamagedCheckpointError(f"there is no {path} (steps there: {there})")
    try:
        saved = _shapes(_handler().metadata(reachable(path)).tree)
    except Exception as error:  # Orbax raises many kinds for a damaged directory.
        raise _damaged(path, error) from error
    if difference := first_difference(saved, _shapes(template)):
        raise CheckpointError(f"{path} cannot be read with this config: {difference}")
    with ocp.Checkpointer(_handler(), multiprocessing_options=_alone()) as checkpointer:
        try:
            wanted = ocp.args.StandardRestore(jax.tree.map(_placeholder, template))
            tree = checkpointer.restore(reachable(path), args=wanted)
        except Exception as error:
            raise _damaged(path, error) from error
    if expected is not None and expected[name] != checksum(tree):
        raise DamagedCheckpointError(f"{path} is damaged: its checksum is another")
    return tree


def steps(directory: str | Path) -> list[int]:
    """Steps that have a directory, in no order."""
    directory = Path(directory)
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return [int(name) for name in names if name.isdigit()]


def latest_step(directory: str | Path) -> int:
    """The newest step under a checkpoint directory.

    Raises:
      CheckpointError: if there is none.
    """
    found = steps(directory)
    if not found:
        raise CheckpointError(f"there are no checkpoints in {directory}")
    return max(found)


def checksum(tree: Tree) -> int:
    """CRC-32 of all bytes of a tree's arrays, in the order of their paths."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    leaves = sorted((_name(path), np.ascontiguousarray(leaf)) for path, leaf in leaves)
    with ThreadPoolExecutor() as pool:  # zlib lets go of the interpreter
        each = pool.map(lambda leaf: zlib.crc32(leaf[1].reshape(-1).view(np.uint8)), leaves)
        return zlib.crc32(repr(list(each)).encode())


def params_checksum(params: Tree) -> int:
    """CRC-32 of all parameters in order: tells weights apart, wherever they lie."""
    crc = 0
    for leaf in jax.tree.leaves(params):
        crc = zlib.crc32(np.ascontiguousarray(leaf).data, crc)
    return crc


def _read_checksums(directory: Path, step: int) -> dict[str, int] | None:
    """By name of a tree; None in checkpoints of earlier versions, which had none."""
    if not (directory / str(step) / "checksums").is_dir():
        return None
    return _read_json(directory, step, "checksums")


def read_progress(directory: str | Path, step: int) -> dict[str, Any]:
    """The progress that was saved with a checkpoint.

    Raises:
      DamagedCheckpointError: if it cannot be read.
    """
    directory = Path(directory).absolute()
    check_manifest(directory / str(step), "progress")
    return _read_json(directory, step, "progress")


def _read_json(directory: Path, step: int, name: str) -> dict[str, Any]:
    path = directory / str(step) / name
    try:
        with ocp.Checkpointer(
            ocp.JsonCheckpointHandler(multiprocessing_options=_alone()),
            multiprocessing_options=_alone(),
        ) as checkpointer:
            return checkpointer.restore(reachable(path))
    except Exception as error:
        raise _damaged(path, error) from error


def _handler() -> ocp.StandardCheckpointHandler:
    return ocp.StandardCheckpointHandler(multiprocessing_options=_alone())


def _damaged(path: Path, error: Exception) -> DamagedCheckpointError:
    return DamagedCheckpointError(f"{path} is damaged: {_reason(error)}")


def _reason(error: Exception) -> str:
    """The end of a long message tells most; sources and repeated context are left out."""
    text = re.sub(r"\[(source locations|tensorstore_spec)=.*", "", " ".join(str(error).split()))
    return text[:300] or type(error).__name__


def _alone() -> ocp.options.MultiprocessingOptions:
    """This process works without waiting for the others."""
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})


def _shapes(tree: Tree) -> dict[str, str]:
    """Type and shape of every array, as text."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {_name(path): f"{np.dtype(x.dtype).name}{list(x.shape)}" for path, x in leaves}


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _copy(array: Any) -> np.ndarray:
    """A copy on the host; the step may then reuse the device's memory."""
    return np.array(array.addressable_data(0) if isinstance(array, jax.Array) else array)


def _placeholder(array: Any) -> np.ndarray:
    """Tells Orbax to restore into the host's memory; takes none itself."""
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)
