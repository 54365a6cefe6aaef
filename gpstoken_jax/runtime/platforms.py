"""Forms of a function by the platform that its program is compiled for."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from jax import lax

_KNOWN: ContextVar[str | None] = ContextVar("platform", default=None)


@contextlib.contextmanager
def tracing_for(platform: str | None) -> Iterator[None]:
    """While it lasts, what is traced runs on this platform alone, e.g. ``"cpu"``; None: on any."""
    token = _KNOWN.set(platform)
    try:
        yield
    finally:
        _KNOWN.reset(token)


def known_platform() -> str | None:
    """The platform of ``tracing_for``; None where a program may be compiled for any."""
    return _KNOWN.get()


def by_platform(*arguments: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """``jax.lax.platform_dependent``; where the platform is known only its form is traced."""
    if (platform := known_platform()) is None:
        return lax.platform_dependent(*arguments, cpu=cpu, default=default)
    return (cpu if platform == "cpu" else default)(*arguments)
