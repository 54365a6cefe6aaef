"""From names of images and classes to names of files: whatever the names, no two become one file.

The result is the name itself where every file system can have it. What cannot be a file's name is
replaced, and what some file system would take for another name gets a mark of its own. In mind are
file systems that ignore case, that normalise Unicode, that drop dots and spaces at the end or
reserve names (Windows), and that take 255 bytes or UTF-16 units.
"""

import collections
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence

MAX_LENGTH = 240  # of a part: bytes of UTF-8, and UTF-16 units once it is decomposed
MAX_PARTS, MAX_PATH = 32, 1000  # a name of more parts or characters loses its folders

_REPLACED = re.compile(  # separators, wildcards, control characters, and what turns text around
    '[<>:"/\\\\|?*\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]'
)
_RESERVED = re.compile(  # by Windows, and by the directories that outputs are written to
    r"(con|prn|aux|nul|clock\$|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\.|$)"
    r"|manifest\.json$|journal-\d+\.txt$",
    re.IGNORECASE,
)
_IGNORABLE = re.compile(  # Unicode's Default_Ignorable_Code_Point, but for the category Cf
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U000e0000-\U000e0fff]"
)
_MARK = re.compile(r"~[0-9a-f]{16}(\.|$)", re.IGNORECASE)
_MARK_LENGTH = 17


def file_names(
    names: Sequence[str], suffix: str = ".png", replaced: Iterable[str] = ()
) -> list[str]:
    """Names of files for images of any names, relative to a directory.

    Args:
      names: of the images, folders separated by "/". Equal ones get different files.
      suffix: of the files.
      replaced: suffixes, in lower case, that give way to it; behind others it is added.

    Returns:
      A name for each, in their order. They are distinct, and no file is another one's folder,
      whichever way a file system folds case and normalises; none leaves the directory.
    """
    replaced = {suffix, *replaced}
    split = [_split(name) for name in names]
    folders: dict[tuple[str, ...], dict[str | int, tuple[str, str]]] = collections.defaultdict(dict)
    for number, parts in enumerate(split):
        for depth, part in enumerate(parts[:-1]):
            folders[parts[:depth]][part] = part, ""
        stem, extension = os.path.splitext(parts[-1])
        known = extension.lower() in replaced
        folders[parts[:-1]][number] = stem if known else parts[-1], suffix
    chosen = {}
    for folder, inside in folders.items():
        originals = [key if isinstance(key, str) else split[key][-1] + "/" for key in inside]
        parts = _make_distinct(originals, list(inside.values()))
        chosen[folder] = dict(zip(inside, parts, strict=True))
    return [
        "/".join(
            [chosen[parts[:depth]][part] for depth, part in enumerate(parts[:-1])]
            + [chosen[parts[:-1]][number]]
        )
        for number, parts in enumerate(split)
    ]


def folder_names(names: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """Names of folders for anything, e.g. classes; distinct as those of ``file_names``.

    Args:
      names: anything; separators in them make no folders.
      taken: names of files and folders beside them, which none of them gets.
    """
    everything = [*taken, *names]
    chosen = _make_distinct(everything, [(name, "") for name in everything], len(list(taken)))
    return chosen[len(everything) - len(names) :]


def _split(name: str) -> tuple[str, ...]:
    parts = tuple(name.split("/"))
    return (
        parts
        if len(parts) <= MAX_PARTS and len(name.encode("utf-8", "replace")) <= MAX_PATH
        else (name,)
    )


def _make_distinct(
    originals: Sequence[str], wanted: Sequence[tuple[str, str]], num_fixed: int = 0
) -> list[str]:
    """Chooses names inside one folder.

    Args:
      originals: what the marks are made of.
      wanted: stem and suffix of each.
      num_fixed: so many of the first are as they are, and only keep others from having their names.
    """
    cleaned = [_clean(stem, suffix) for stem, suffix in wanted]
    groups = collections.defaultdict(list)
    for i, ((stem, suffix), clean) in enumerate(zip(wanted, cleaned, strict=True)):
        groups[fold(clean + suffix)].append((i >= num_fixed, clean != stem, originals[i], i))
    result, seen = [""] * len(wanted), collections.Counter()
    for group in groups.values():
        first, *others = sorted(group)  # one that is legal as it is, if there is any
        alone = not others or first[:-1] < others[0][:-1]
        for entry in (first, *others):
            i = entry[-1]
            suffix = wanted[i][1]
            result[i] = cleaned[i] + suffix
            if not (alone and entry is first) or _MARK.search(result[i]):
                result[i] = f"{cleaned[i]}~{_digest(originals[i], seen[originals[i]])}{suffix}"
                seen[originals[i]] += 1
    return result


def fold(name: str) -> str:
    """Folds a name to the form that some file systems cannot tell it from."""
    for _ in range(2):
        name = unicodedata.normalize("NFKD", name.upper().casefold())
    return _IGNORABLE.sub("", "".join(c for c in name if unicodedata.category(c) != "Cf"))


def _clean(stem: str, suffix: str) -> str:
    """The nearest text to a stem that can be, with the suffix, a name in any file system."""
    text = _REPLACED.sub("_", unicodedata.normalize("NFC", stem[:MAX_PATH]))
    text = text[:MAX_LENGTH]
    while _length(text) > MAX_LENGTH - _MARK_LENGTH - len(suffix):
        text = text[:-1]
    if not suffix:
        text = text.rstrip(". ")
    if not text.strip() or text.startswith(".") or _RESERVED.match(text + suffix):
        text = "_" + text.lstrip(". ")
    return text


def _length(text: str) -> int:
    decomposed = unicodedata.normalize("NFD", text)
    return max(len(text.encode("utf-8")), len(decomposed.encode("utf-16-le")) // 2)


def _digest(original: str, number: int) -> str:
    text = f"{number} {original}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[: _MARK_LENGTH - 1]
