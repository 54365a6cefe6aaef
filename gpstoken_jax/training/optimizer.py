"""The optimizer: Adam, with an optional warm-up, cosine decay and gradient clipping."""

import optax
from ml_collections import ConfigDict


def learning_rate(config: ConfigDict, steps: int) -> optax.Schedule:
    """Learning rate by step; ``config`` is the optimizer section, ``steps`` the length of the run.

    Raises:
      ValueError: for an unknown ``config.decay``.
    """
    if config.decay not in ("constant", "cosine"):
        raise ValueError(f"optimizer.decay must be 'constant' or 'cosine', not {config.decay!r}")
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.decay == "constant":
        after = optax.constant_schedule(peak)
    else:
        after = optax.cosine_decay_schedule(peak, max(steps - warmup, 1))
    rise = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup]) if warmup else after


def create_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """Adam (no weight decay, as published); clips the global gradient norm first if asked."""
    adam = optax.adam(learning_rate(config, steps), b1=config.b1, b2=config.b2)
    if not config.clip_norm:
        return adam
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adam)
