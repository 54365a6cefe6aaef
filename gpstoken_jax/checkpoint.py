"""Checkpoints: Orbax, one directory a step.

A checkpoint is a few named trees (for a training run ``params``, ``ema_params``, ``optimizer``) and
``progress``, a JSON object. Each can be read without the others.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

Tree = Any


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged or not of this config; the message says where and why."""


class Checkpoints:
    """Saves trees under ``directory``, keeps the newest ``keep``, restores the newest readable."""

    def __init__(self, directory: str | Path, *, keep: int):
        self.directory = Path(directory).absolute()
        self._manager = ocp.CheckpointManager(
            self.directory, options=ocp.CheckpointManagerOptions(max_to_keep=keep)
        )

    def save(self, step: int, trees: Mapping[str, Tree], progress: Mapping[str, Any]) -> None:
        """Copies now, writes in the background; a checkpoint appears only when it is complete."""
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        progress = ocp.args.JsonSave(dict(progress))
        self._manager.save(step, args=ocp.args.Composite(**items, progress=progress))

    def restore_latest(
        self, templates: Mapping[str, Tree]
    ) -> tuple[int, dict[str, Tree], dict[str, Any]] | None:
        """The newest checkpoint that can be read.

        Args:
          templates: for each name a tree of the expected structure, arrays or their shapes.

        Returns:
          The step, the trees on this process's first device, and the progress; None if there is no
          checkpoint at all.

        Raises:
          CheckpointError: if there are checkpoints and none can be read.
        """
        failures = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return step, *self._restore(step, templates)
            except Exception as error:  # Orbax raises many kinds for a damaged directory.
                failures.append(f"{self.directory / str(step)} cannot be read: {error}")
                logging.warning("%s", failures[-1])
        if failures:
            raise CheckpointError(f"no checkpoint can be read; the newest: {failures[0]}")
        return None

    def _restore(self, step: int, templates: Mapping[str, Tree]):
        items = {
            name: ocp.args.StandardRestore(_on_one_device(tree)) for name, tree in templates.items()
        }
        items["progress"] = ocp.args.JsonRestore()
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        return {name: restored[name] for name in templates}, restored["progress"]

    def close(self) -> None:
        """Finishes writing and lets go of the directory."""
        self._manager.wait_until_finished()
        self._manager.close()


def load_tree(directory: str | Path, name: str, template: Tree, step: int) -> Tree:
    """One tree of one checkpoint, on this process's first device.

    Raises:
      CheckpointError: if it is missing or does not fit the template.
    """
    path = Path(directory).absolute() / str(step) / name
    if not path.is_dir():
        raise CheckpointError(f"there is no {path}")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(path, _on_one_device(template))
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read with this config: {error}") from error


def latest_step(directory: str | Path) -> int:
    """The newest step under a checkpoint directory.

    Raises:
      CheckpointError: if there is none.
    """
    directory = Path(directory)
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    steps = [int(name) for name in names if name.isdigit()]
    if not steps:
        raise CheckpointError(f"there are no checkpoints in {directory}")
    return max(steps)


def _on_one_device(tree: Tree) -> Tree:
    """Shapes to restore into, on one device here whichever devices wrote the checkpoint."""
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
