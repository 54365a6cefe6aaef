"""What every page has: a head with style and script in it, and a file that is whole or absent."""

import base64
import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

_HERE = Path(__file__).parent


def page(title: str, body: Iterable[str]) -> Iterable[str]:
    """A page in pieces, so that no more than one photo is held as text.

    It may load nothing from elsewhere, and run no script but its own: browsers are told so.
    """
    style, script = ((_HERE / name).read_text("utf-8") for name in ("report.css", "report.js"))
    script = f"\n{script}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
    )
    yield from body
    yield f"</main>\n<script>{script}</script>\n</body>\n</html>\n"


def definitions(items: Mapping[str, object], kind: str = "") -> str:
    """Names and what they stand for."""
    entries = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd></div>\n"
        for name, value in items.items()
    )
    return f'<dl class="{kind}">\n{entries}</dl>\n'


def write_whole(path: str | Path, pieces: Iterable[str]) -> Path:
    """Writes a file that appears under its name only when it is whole.

    Folders are made, an older file is replaced; after an error or a kill that one is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.writelines(pieces)
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
