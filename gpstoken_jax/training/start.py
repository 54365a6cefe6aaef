"""Start from the weights of another run, and freeze a part of the network.

Parameters are named by their paths, such as ``decoder/conv_out/kernel``; patterns are regular
expressions that may match anywhere in such a name.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

Params = Any
_NAMED = 3  # parameters in an error


class Start(NamedTuple):
    """Parameters of a new run that begins with those of another one.

    Attributes:
      params: of the new model; those not loaded are as they were.
      loaded: names of those that have the other run's values.
      new: names of those that keep their own, each with the reason.
      left_out: names of the other run's that are not used, each with the reason.
    """

    params: Params
    loaded: Sequence[str]
    new: Mapping[str, str]
    left_out: Mapping[str, str]

    def report(self) -> str:
        """Lists every parameter that was not simply loaded, a line each, after a summary."""
        head = (
            f"{len(self.loaded)} parameters loaded, {len(self.new)} new, "
            f"{len(self.left_out)} left out"
        )
        new = [f"  new: {name} ({reason})" for name, reason in self.new.items()]
        left = [f"  left out: {name} ({reason})" for name, reason in self.left_out.items()]
        return "\n".join([head, *new, *left])


def start_from(params: Params, source: Params, include: str = "", exclude: str = "") -> Start:
    """Replaces parameters by those of the same name and shape in another model.

    Args:
      params: of the new model.
      source: of the other one.
      include: only names with this pattern in them; empty: all.
      exclude: none with this one; empty: excludes none.

    Raises:
      ValueError: for a pattern that is none, or if no parameter can be loaded.
    """
    wanted = compile_pattern("init.include", include)
    unwanted = compile_pattern("init.exclude", exclude)
    theirs = dict(_named(source))
    loaded, new = [], {}

    def choose(path: tuple, value: Array) -> Array:
        name = parameter_name(path)
        if reason := _not_asked(name, wanted, unwanted):
            new[name] = reason
        elif name not in theirs:
            new[name] = "not in the source"
        elif theirs[name].shape != value.shape:
            new[name] = f"{value.shape} here, {theirs[name].shape} in the source"
        else:
            loaded.append(name)
            return jnp.asarray(theirs[name], value.dtype)
        return value

    params = jax.tree_util.tree_map_with_path(choose, params)
    taken = set(loaded)
    left_out = {
        name: _not_asked(name, wanted, unwanted) or new.get(name, "not in this model")
        for name in theirs
        if name not in taken
    }
    if not loaded:
        reasons = [f"{n} ({why})" for n, why in {**left_out, **new}.items()][:_NAMED]
        raise ValueError(
            f"nothing can be taken from config.init.source: none of its {len(theirs)} parameters "
            f"goes into one of the {len(new)} here, such as {', '.join(reasons)}"
        )
    return Start(params, loaded, new, left_out)


def frozen_at_random(params: Params, frozen: PyTree[bool] | None, loaded: Sequence[str]) -> str:
    """A warning about parameters that stay as they were drawn: frozen ones not loaded; or empty."""
    if frozen is None:
        return ""
    kept = {name for name, is_frozen in _named(frozen) if is_frozen} - set(loaded)
    if not kept:
        return ""
    return (
        f"{len(kept)} frozen parameters stay as they were drawn at random, such as {min(kept)}: "
        "config.freeze has them and config.init.source, of --init_from, does not give them"
    )


def frozen_leaves(params: Params, pattern: str) -> PyTree[bool]:
    """Returns a tree of bools: True for a parameter whose name has the pattern in it.

    Raises:
      ValueError: for a pattern that is none, or that freezes nothing or everything.
    """
    matches = compile_pattern("freeze", pattern)
    frozen = jax.tree_util.tree_map_with_path(
        lambda path, _: matches.search(parameter_name(path)) is not None, params
    )
    leaves = jax.tree.leaves(frozen)
    if not any(leaves) or all(leaves):
        which = "every parameter" if any(leaves) else "no parameter"
        tops = sorted({name.split("/")[0] for name, _ in _named(params)})
        raise ValueError(
            f"config.freeze={pattern!r} matches {which}; names begin with {', '.join(tops)}, "
            "parameters.txt of a run has all"
        )
    return frozen


def stop_gradients(params: Params, frozen: PyTree[bool] | None) -> Params:
    """Cuts frozen parameters off from differentiation, so that nothing is computed for them."""
    if frozen is None:
        return params
    return jax.tree.map(lambda p, f: jax.lax.stop_gradient(p) if f else p, params, frozen)


def keep_frozen(old: Params, new: Params, frozen: PyTree[bool] | None) -> Params:
    """Returns the new parameters, but for the frozen ones the old, to the bit."""
    if frozen is None:
        return new
    return jax.tree.map(lambda o, n, f: o if f else n, old, new, frozen)


def parameter_name(path: tuple) -> str:
    """Returns the name of a parameter: its path without the collection ``params``."""
    names = [str(getattr(part, "key", part)) for part in path]
    return "/".join(names[1:] if names[0] == "params" else names)


def compile_pattern(field: str, pattern: str) -> re.Pattern | None:
    """Compiles a regular expression of the config; None for an empty one.

    Raises:
      ValueError: if it is none; names the field.
    """
    try:
        return re.compile(pattern) if pattern else None
    except re.error as error:
        raise ValueError(f"config.{field}={pattern!r} is no regular expression: {error}") from error


def _named(params: Params) -> list[tuple[str, Array]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return [(parameter_name(path), value) for path, value in leaves]


def _not_asked(name: str, wanted: re.Pattern | None, unwanted: re.Pattern | None) -> str | None:
    if wanted and not wanted.search(name):
        return f"init.include={wanted.pattern!r} leaves it out"
    if unwanted and unwanted.search(name):
        return f"init.exclude={unwanted.pattern!r} has it"
    return None
