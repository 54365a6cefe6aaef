"""train.py with a task of one small vector, which compiles in no time; and its config.

    python tests/toy_training.py --config=tests/toy_training.py --workdir=DIR

What can go wrong in training can be ordered, see ``toy`` in the config.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from gpstoken_jax.data.loader import UnreadableDataError
from gpstoken_jax.training import task as tasks


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "task": "toy",
            "seed": 0,
            "model": {"width": 8},
            "data": {"folder": "", "tfds_name": "", "tfds_dir": ""},
            "optimizer": {
                **{"learning_rate": 0.5, "warmup_steps": 0, "decay": "constant"},
                "momentum": 0.0,
            },
            "ema": {"decay": 0.9, "update_every": 1, "update_after": 0, "power": 2 / 3},
            "train": {"batch_size": 4, "steps": 12, "max_skipped": 3},
            "checkpoint": {"every_steps": 4, "keep": 3, "best_metric": "", "best_is_lowest": False},
            "eval": {},
            "log": {"every_steps": 1, "images_every_steps": 1000},
            "toy": {
                "nan_steps": (0,),  # whose batch has a NaN in its last row
                "data_ends_at": 0,  # step whose batch cannot be read
                "seconds": 0.0,  # that every batch takes
                "waits_at": 0,  # step whose batch never comes
                "held_out": False,
                "evaluation_fails": False,
            },
        }
    )


class ToyBatches:
    """Batches drawn from the position; they say which rows this process has."""

    def __init__(self, config: ConfigDict):
        self._config = config
        self._done = 0
        self.unreadable = type("Unreadable", (), {"count": 0})()

    def __next__(self) -> dict[str, np.ndarray]:
        config, step = self._config, self._done + 1
        time.sleep(config.toy.seconds)
        if step == config.toy.waits_at:
            time.sleep(3600)
        if step == config.toy.data_ends_at:
            raise UnreadableDataError("the disk with the data is gone")
        x = np.random.default_rng(step).standard_normal(
            (config.train.batch_size, config.model.width), np.float32
        )
        if step in config.toy.nan_steps:
            x[-1, 0] = np.nan
        self._done = step
        return {"x": x[jax.process_index() :: jax.process_count()]}

    def get_state(self) -> dict:
        return {"done": self._done}

    def set_state(self, state: dict) -> None:
        self._done = state["done"]

    def close(self) -> None:
        pass


class ToyTask(tasks.Task):
    """Learns to sum."""

    def optimizer(self, rate):
        return optax.sgd(rate, self.config.optimizer.momentum or None)

    def open_batches(self) -> ToyBatches:
        return ToyBatches(self.config)

    def init_params(self, key):
        return {"params": {"linear": jax.random.normal(key, (self.config.model.width,))}}

    def held_out_metrics(self):
        return ("val_step",) if self.config.toy.held_out else ()

    def evaluate(self, state, frozen):
        if self.config.toy.evaluation_fails:
            raise ValueError("the evaluation failed")
        return {"val_step": float(state.step.reshape(-1)[0])} if self.config.toy.held_out else {}

    def batch_loss(self, params, batch, key):
        errors = batch["x"] @ params["params"]["linear"] - batch["x"].sum(axis=1)
        return jnp.mean(errors**2) / self.config.model.width, {}


def create_task(config: ConfigDict) -> ToyTask:
    return ToyTask(config)


if __name__ == "__main__":
    import train
    from gpstoken_jax.programs import cli

    tasks.MODULES["toy"] = "__main__"
    cli.run(train.main)
