"""The one error of this room, raised by every reader of a file that others made."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class WeightsError(ValueError):
    """A file of weights or arrays is damaged, unsafe, of another kind, or fits no network."""


@contextlib.contextmanager
def reading(path: str | Path, expected: str) -> Iterator[None]:
    """Turns whatever a reader raises on a file's content into a `WeightsError` that names it.

    Args:
      path: the file that is being read.
      expected: what it should be, for the message, e.g. ``"a .npz file"``.

    Raises:
      WeightsError: in one line, for anything that went wrong.
    """
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{path} was not read: {error}.") from error
    except MemoryError as error:
        raise WeightsError(
            f"{path} was not read: it asks for more memory than there is."
        ) from error
    except Exception as error:  # a broken stream makes parsers raise nearly anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise WeightsError(f"{path} is damaged or not {expected} ({reason}).") from error
