"""One check of a whole config: every mistake that can be seen in it, at once, a line each.

What a field may hold is told by the defaults (its type), by the tables below (its range or its
choices), and by a few rules on fields that have to fit together. Nothing here imports JAX.
"""

import difflib
import importlib.util
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from gpstoken_jax.configs import common, layout_sit, layout_tree, sit_common

_DEFAULTS = {
    "tokenizer": common.get_config,
    "sit": sit_common.get_config,
    "layout_sit": layout_sit.get_config,
    "layout_tree": layout_tree.get_config,
}
_OPTIONAL = {"eval.every_steps": 0, "train.max_skipped": 0}  # fields that every task understands

_CHOICES = {
    "model.dtype": ("float32", "bfloat16", "float16"),
    "model.init": ("published", "flax"),
    "model.encoder.condition": ("roi", "image", "none"),
    "data.resize": ("published", "antialias", "fast"),
    "data.mirror": ("if_there", "required", "never"),
    "data.crop": ("center", "random", "random_resized"),
    "loss.inception_scaling": ("release", "correct"),
    "loss.convnext_normalisation": ("release", "correct"),
    "optimizer.name": ("adam", "muon"),
    "optimizer.decay": ("constant", "cosine"),
    "gan.loss": ("hinge", "vanilla"),
    "gan.discriminator.norm": ("batch", "group"),
    "train.schedule": ("together", "alternate"),
    "eval.rounding": ("round", "truncate"),
    "eval.high_resolution": ("merged", "aligned", "tiles", "blended"),
    "transport.path": ("linear", "gvp", "vp"),
    "transport.prediction": ("velocity", "noise", "score"),
    "transport.loss_weight": ("none", "velocity", "likelihood"),
    "sample.layouts": ("random", "in_turn"),
    "sample.method": (
        "sde_euler", "sde_heun", "ode_euler", "ode_heun", "ode_midpoint", "ode_rk4", "ode_dopri5",
    ),
}  # fmt: skip
_LOGS = {"tensorboard": "", "jsonl": "", "wandb": "wandb", "mlflow": "mlflow"}  # and packages
_AT_LEAST_1 = {
    "model.image_size", "model.render_size", "model.feature_channels", "model.cond_channels",
    "model.encoder.channels", "model.encoder.norm_groups", "model.encoder.roi_size",
    "model.encoder.width", "model.encoder.depth", "model.encoder.num_heads",
    "model.encoder.mlp_ratio", "model.decoder.channels", "model.decoder.blocks_per_level",
    "model.decoder.norm_groups", "model.width", "model.depth", "model.num_heads",
    "model.mlp_ratio", "partition.num_tokens", "partition.min_size", "data.prefetch",
    "gan.discriminator.channels", "gan.discriminator.num_layers", "gan.discriminator.norm_groups",
    "ema.update_every", "train.batch_size", "train.steps", "train.accumulate",
    "train.max_skipped",
    "log.images", "eval.batch_size", "eval.num_times", "sample.steps",
}  # fmt: skip
_ABOVE_0 = {"model.support", "optimizer.learning_rate"}
_SHARES = {"train.label_dropout", "ema.decay"}  # 0 to 1
_BELOW_1 = {
    "data.val_fraction",
    "optimizer.b1",
    "optimizer.b2",
    "model.dropout",
}  # 0 to 1 without 1
_FROM_DATA = {"model.image_size"}  # that the tasks of layouts read from their data if 0


class ConfigError(ValueError):
    """A config has mistakes; the message has a line for each."""


def check_config(config: ConfigDict, *, devices: int | None = None) -> None:
    """Checks a config before anything is done with it.

    Args:
      config: the whole config, as a file of configs/ makes it and flags have changed it.
      devices: how many devices of all processes share a batch; None leaves that open.

    Raises:
      ConfigError: with all mistakes.
    """
    if mistakes := list(find_mistakes(config, devices=devices)):
        raise ConfigError("\nerror: ".join(mistakes))


def find_mistakes(config: ConfigDict, *, devices: int | None = None) -> Iterator[str]:
    """Yields a line for each mistake. See ``check_config``."""
    task = config.get("task", "tokenizer")
    values = _flatten(config.to_dict())
    known = _flatten(_DEFAULTS[task]().to_dict()) | _OPTIONAL if task in _DEFAULTS else {}
    wrong = set()
    for name, value in values.items():
        problem = _wrong_field(name, value, known) if known else None
        problem = problem or _wrong_value(name, value, task)
        if problem:
            wrong.add(name)
            yield f"config.{name} {problem}"
    for fields, check in _RULES:
        if fields.keys() & values.keys() and not wrong & fields.keys():
            arguments = [values.get(name, default) for name, default in fields.items()]
            if None not in arguments and (problem := check(*arguments)):
                yield f"config.{problem}"
    yield from _init_problems(values)
    if devices and not {"train.batch_size", "train.accumulate"} & wrong:
        yield from _batch_problems(values, devices)


def _wrong_field(name: str, value: Any, known: Mapping[str, Any]) -> str | None:
    """Tells what is wrong with the name or the type of a field."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        return "is no field" + (f"; did you mean config.{near[0]}?" if near else "")
    if not _same_type(value, known[name]):
        wanted = "text" if known[name] is None else type(known[name]).__name__
        return f"is {value!r}: it must be {wanted.replace('str', 'text')}"
    return None


def _same_type(value: Any, default: Any) -> bool:
    if default is None:  # a path or a name that may be left out
        return value is None or isinstance(value, str)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, tuple | list if isinstance(default, tuple) else type(default))


def _wrong_value(name: str, value: Any, task: str) -> str | None:
    """Tells what is wrong with a field's value by itself."""
    rule = name.removeprefix("gan.") if name.startswith("gan.optimizer.") else name
    if rule in _CHOICES:
        if value in _CHOICES[rule]:
            return None
        near = difflib.get_close_matches(str(value), _CHOICES[rule], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"is {value!r}: it must be one of {', '.join(_CHOICES[rule])}{hint}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        return f"is {value}: it must be a finite number"
    low = 0
    if rule in _AT_LEAST_1 and not (rule in _FROM_DATA and task.startswith("layout")):
        low = 1
    if rule in _ABOVE_0 and value <= 0:
        return f"is {value}: it must be above 0"
    if rule in _SHARES and not 0 <= value <= 1:
        return f"is {value}: it must be from 0 to 1"
    if rule in _BELOW_1 and not 0 <= value < 1:
        return f"is {value}: it must be from 0 up to, not including, 1"
    return f"is {value}: it must be {low} or more" if value < low else None


# ---- Fields that have to fit together ------------------------------------------------------------


def _divides(whole: str, part: str) -> tuple[dict[str, Any], Callable[..., str | None]]:
    def check(a: int, b: int) -> str | None:
        return f"{whole} is {a}: it must be a multiple of config.{part}={b}" if a % b else None

    return {whole: None, part: None}, check


def _levels(channels: int, multipliers: tuple, groups: int) -> str | None:
    if not multipliers or not all(isinstance(m, int) and m > 0 for m in multipliers):
        return f"model.decoder.multipliers is {multipliers}: it must be whole numbers from 1 up"
    widths = [channels * m for m in multipliers]
    if all(width % groups == 0 for width in widths):
        return None
    return (
        f"model.decoder.channels is {channels}: the widths of the levels, "
        f"{', '.join(map(str, widths))}, must be multiples of config.model.decoder.norm_groups="
        f"{groups}"
    )


def _image_size(size: int, render: int, multipliers: tuple) -> str | None:
    needed = render * 2 ** (len(multipliers) - 1)
    if size == needed:
        return None
    return (
        f"model.image_size is {size}: config.model.render_size={render} with {len(multipliers)} "
        f"levels of config.model.decoder.multipliers makes images of {needed}"
    )


def _regions(tokens: int, min_size: int, size: int) -> str | None:
    from gpstoken_jax.partition.regions import max_regions

    most = max_regions(size, size, min_size)
    if tokens <= most:
        return None
    return (
        f"partition.num_tokens is {tokens}: an image of {size} pixels with "
        f"config.partition.min_size={min_size} has at most {most} regions"
    )


def _drawn_tokens(choices: tuple, size: int) -> str | None:
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in choices):
        return f"train.num_tokens is {tuple(choices)}: it must be whole numbers from 1 up"
    if max(choices, default=1) <= size * size // 4:
        return None
    return f"train.num_tokens has {max(choices)}: an image of {size} pixels has too few for them"


def _crop_scale(scale: tuple) -> str | None:
    if len(scale) == 2 and all(map(_is_number, scale)) and 0 < scale[0] <= scale[1] <= 1:
        return None
    return f"data.crop_scale is {tuple(scale)}: it must be two shares, 0 < smallest <= largest <= 1"


def _guidance_interval(interval: tuple) -> str | None:
    if len(interval) == 2 and all(map(_is_number, interval)) and interval[0] <= interval[1]:
        return None
    return f"sample.guidance_interval is {tuple(interval)}: it must be two times, first <= last"


def _velocity(path: str, prediction: str, weight: str) -> str | None:
    if prediction != "velocity" or (path != "vp" and weight == "none"):
        return None
    return "transport.prediction is 'velocity', which goes without path=vp and without loss_weight"


def _group_norm(norm: str, channels: int, groups: int) -> str | None:
    if norm != "group" or 2 * channels % groups == 0:  # the first layer has no norm
        return None
    return (
        f"gan.discriminator.channels is {channels}: twice as many must be a multiple of "
        f"config.gan.discriminator.norm_groups={groups}"
    )


def _pattern(name: str) -> tuple[dict[str, Any], Callable[..., str | None]]:
    def check(pattern: str) -> str | None:
        try:
            re.compile(pattern)
        except re.error as error:
            return f"{name} is {pattern!r}, which is no regular expression: {error}"
        return None

    return {name: None}, check


def _log_to(to: str) -> str | None:
    names = [name.strip() for name in to.split(",")]
    if other := [name for name in names if name not in _LOGS]:
        return f"log.to is {to!r}: {other[0]!r} must be one of {', '.join(_LOGS)}"
    for name in names:
        if _LOGS[name] and importlib.util.find_spec(_LOGS[name]) is None:
            return f"log.to has {name}: pip install 'gpstoken_jax[{name}]', or leave it out"
    return None


def _parquet(_: str) -> str | None:
    if importlib.util.find_spec("pyarrow") is None:
        return "data.parquet needs pyarrow: pip install 'gpstoken_jax[parquet]'"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# Names and defaults of fields, and what is wrong with their values together. A rule holds if any of
# its fields is there, and none is wrong by itself.
_RULES = (
    _divides("model.encoder.width", "model.encoder.num_heads"),
    _divides("model.encoder.channels", "model.encoder.norm_groups"),
    _divides("model.width", "model.num_heads"),
    (dict.fromkeys(f"model.decoder.{n}" for n in ("channels", "multipliers", "norm_groups")), _levels),
    (dict.fromkeys(("model.image_size", "model.render_size", "model.decoder.multipliers")), _image_size),
    (dict.fromkeys(("partition.num_tokens", "partition.min_size", "model.image_size")), _regions),
    (dict.fromkeys(("train.num_tokens", "model.image_size")), _drawn_tokens),
    ({"data.crop_scale": None}, _crop_scale),
    *map(_pattern, ("init.include", "init.exclude", "freeze")),
    ({"log.to": None}, _log_to),
    ({"data.parquet": None}, _parquet),
    ({"sample.guidance_interval": None}, _guidance_interval),
    (dict.fromkeys(f"transport.{n}" for n in ("path", "prediction", "loss_weight")), _velocity),
    (dict.fromkeys(f"gan.discriminator.{n}" for n in ("norm", "channels", "norm_groups")), _group_norm),
)  # fmt: skip


def _batch_problems(values: Mapping[str, Any], devices: int) -> Iterator[str]:
    batch = values.get("train.batch_size")
    parts = values.get("train.accumulate", 1)
    if batch is None:
        return
    if batch % devices:
        yield (
            f"config.train.batch_size is {batch}: it must be a multiple of the {devices} devices "
            "of all processes"
        )
    elif batch // devices % parts:
        yield (
            f"config.train.accumulate is {parts}: it must divide the {batch // devices} images of "
            "a device"
        )


def _init_problems(values: Mapping[str, Any]) -> Iterator[str]:
    for name in ("init.include", "init.exclude"):
        if values.get(name) and not values.get("init.source"):
            yield f"config.{name} is of weights to start from, but none are: give --init_from=SOURCE"


def _flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    fields = {}
    for name, value in section.items():
        if isinstance(value, Mapping):
            fields |= _flatten(value, f"{prefix}{name}.")
        else:
            fields[f"{prefix}{name}"] = value
    return fields
