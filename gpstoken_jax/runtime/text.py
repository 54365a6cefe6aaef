"""Escapes for text that comes from files and may hold anything: names, classes, metadata, errors.

HTML needs none of these: pages are Jinja2 templates that escape by themselves.
"""

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from gpstoken_jax.runtime.buckets import as_given

# Control characters, line and paragraph separators, marks that turn the direction of what follows,
# characters without width, and halves of characters (bytes of a name that are not valid UTF-8).
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_MARKDOWN = re.compile(r"([\\`*_\[\]|~#$])")
_BLOCK_START = re.compile(r"^(\s*)([-+=>:]|\d+(?=[.)](?:\s|$)))")
_FORMULA_START = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")


def terminal_text(text: object) -> str:
    r"""One line that a terminal shows as it is: what would move or colour it becomes ``\x1b``."""
    return _UNPRINTABLE.sub(_escape, str(text))


def say(line: object) -> None:
    """Prints one line in which text from files may stand; places in buckets as they were given."""
    print(terminal_text(as_given(str(line))), flush=True)


@contextlib.contextmanager
def printable_output(handler: logging.Handler) -> Iterator[None]:
    """Makes all that is printed, and logged to a handler, text that a terminal shows as it is.

    The last line of defence, for texts that nobody thought of: of what is printed, line ends stay.
    """
    with (
        contextlib.redirect_stdout(_Printable(sys.stdout)),
        contextlib.redirect_stderr(_Printable(sys.stderr)),
    ):
        handler.addFilter(_make_printable)
        try:
            yield
        finally:
            handler.removeFilter(_make_printable)


class _Printable:
    """A stream that escapes all but line ends."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write("\n".join(map(terminal_text, text.split("\n"))))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _make_printable(record: logging.LogRecord) -> bool:
    record.msg, record.args = terminal_text(record.getMessage()), ()
    return True


def markdown_text(text: object) -> str:
    """One line that Markdown (CommonMark, and tables of GitHub's) shows as it is, without markup.

    Unprintable characters become escapes as in ``terminal_text``.
    """
    text = _MARKDOWN.sub(r"\\\1", terminal_text(text).strip())  # four spaces would be code
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _BLOCK_START.sub(_mark_start, text)


def csv_text(text: object) -> str:
    """Text for a cell of a CSV file that no spreadsheet takes for a formula.

    A cell that would begin with ``= + - @`` gets an apostrophe before it; tabs and line ends become
    escapes as in ``terminal_text``. For text only: numbers are written as they are. Quotes and
    commas are the writer's to escape.
    """
    text = terminal_text(text)
    return f"'{text}" if _FORMULA_START.match(text) else text


def _escape(match: re.Match) -> str:
    code = ord(match[0])
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def _mark_start(match: re.Match) -> str:
    """Escapes what begins a list, a heading or a quotation."""
    space, mark = match.groups()
    return f"{space}&#{ord(mark[0])};{mark[1:]}"
