"""A directory of images, or a text file of paths, as a list of files with labels and splits.

    FOLDER/**.jpg                       no labels
    FOLDER/<class>/**.jpg               the first sub-folder is the class
    FOLDER/{train,val}/...              the same within each split

Split folders may be called train, training, val, valid, validation or test; what lies beside them
is left out. Hidden files and the folders that desktop and NAS systems scatter are no classes.
"""

import bisect
import collections
import dataclasses
import errno
import hashlib
import itertools
import os
import pathlib
import posixpath
import re
import typing

from gpstoken_jax.data import images
from gpstoken_jax.runtime import buckets, storage

NO_LABEL = -1
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
SYSTEM_FOLDERS = frozenset(
    {
        "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "__macosx",
        "lost+found", "$recycle.bin", "system volume information", "recycler",
        "found.000", "__pycache__",
    }
)  # fmt: skip
_NEEDS_ESCAPES = re.compile(r"[\n\r\\\ud800-\udfff]")


class ImageFile(typing.NamedTuple):
    """One image to read: where it is, its name in the data set, its class and its split."""

    path: str | pathlib.Path | buckets.RemoteFile | buckets.Packed
    name: str
    label: int
    split: str


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Something in the folder that does not become part of the data set, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class FolderListing:
    """Images and classes of a folder.

    Attributes:
        root: The folder, or its place in a bucket.
        files: All image files, sorted by name.
        label_names: Class names; `ImageFile.label` indexes them, `NO_LABEL` has none.
        left_out: Other files, unreadable folders and the like.
    """

    root: pathlib.Path | str
    files: tuple[ImageFile, ...]
    label_names: tuple[str, ...]
    left_out: tuple[LeftOut, ...]

    def split(self, name: str) -> tuple[ImageFile, ...]:
        """The files of one split, or of every split for "all"."""
        return tuple(file for file in self.files if name in ("all", file.split))


def list_folder(folder: str | os.PathLike, val_fraction: float = 0.0) -> FolderListing:
    """Lists the images below a folder, with classes and splits.

    Args:
        folder: A directory of images, or a place in a bucket.
        val_fraction: Share of the images to hold out as split "val" where the folder has no split
            folders of its own, in [0, 1). The choice hangs on each file's name alone, so adding
            images never moves an old one to the other side.

    Raises:
        FileNotFoundError: When the folder does not exist.
        NotADirectoryError: When it is no directory.
        storage.StorageError: When a folder in it cannot be listed: its images are not to be lost
            without a word.
        ValueError: When `val_fraction` is outside [0, 1), no image was found, or a folder's name
            cannot be that of a class.
    """
    root = buckets.check_url(folder) if buckets.is_url(folder) else _checked_root(folder)
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be in [0, 1), got {val_fraction}")
    if isinstance(root, str):
        remote, left_out = _list_bucket(root)
        paths, locate = list(remote), remote.__getitem__
    else:
        (paths, left_out), locate = _walk(root), os.path.join(root, "").__add__
    split_of = _split_folders(paths)
    placed, outside = _assign_splits(paths, split_of)
    left_out += outside
    if not placed:
        raise ValueError(
            f"no image found below {root}" + (f" ({len(left_out)} other files)" if left_out else "")
        )
    held_out = set() if split_of else hold_out([one.name for one in placed], val_fraction)
    classes = _number_classes({image.folder for image in placed if image.folder is not None})
    files = [
        ImageFile(
            locate(image.path),
            image.name,
            NO_LABEL if image.folder is None else classes[image.folder][1],
            "val" if image.name in held_out else image.split,
        )
        for image in placed
    ]
    files.sort(key=lambda file: file.name)
    names = tuple(name for name, _ in classes.values())
    return FolderListing(root, tuple(files), names, tuple(left_out))


def read_list(path: str | os.PathLike, val_fraction: float = 0.0) -> FolderListing:
    """Lists the images that a text file names: a path a line, after a tab the name of its class.

    Relative paths begin at the directory of the list. Empty lines and lines that begin with # are
    passed over. Images have the names that the list has for them. A list in a bucket names objects
    below its directory.

    Args:
        path: UTF-8 text.
        val_fraction: Share of the images to hold out as split "val", as of `list_folder`.

    Raises:
        FileNotFoundError, IsADirectoryError: When there is no such file.
        ValueError: When it is no text, `val_fraction` is outside [0, 1), no image is listed, or
            one is listed twice or is no file; names the line.
    """
    if remote := buckets.is_url(path):
        path = buckets.check_url(path)
        below = path.rpartition("/")[0]
        there = buckets.list_objects(below)
    copy = buckets.fetch(path)
    if not copy.exists():
        raise FileNotFoundError(f"the list of images {path} does not exist")
    if not copy.is_file():
        raise IsADirectoryError(f"{path} is no file; a directory of images is data.folder=DIR")
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be in [0, 1), got {val_fraction}")
    try:
        lines = storage.retry(lambda: copy.read_text("utf-8-sig"), path).split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no list of images: it is no UTF-8 text") from error
    placed: dict[str, tuple[pathlib.Path | buckets.RemoteFile, str | None]] = {}
    for number, line in enumerate(lines, 1):
        text, _, label = line.removesuffix("\r").partition("\t")
        if not text.strip() or text.startswith("#"):
            continue
        name = printable_name(text)
        if name in placed:
            raise ValueError(f"{path}, line {number}: {text} is there twice")
        if remote:
            inside = posixpath.normpath(text.removeprefix(f"{below}/"))
            file = buckets.RemoteFile(f"{below}/{inside}", there.get(inside))
            found = file.object is not None
        else:
            file = copy.parent / pathlib.Path(text).expanduser()
            found = file.is_file()
        if not found:
            raise ValueError(
                f"{path}, line {number}: there is no file {file}; a line is a path, and after a "
                "tab a class if there are classes"
            )
        placed[name] = file, label.strip() or None
    if not placed:
        raise ValueError(f"{path} lists no image: it has no line with a path")
    classes = sorted({label for _, label in placed.values() if label is not None})
    numbers = {label: number for number, label in enumerate(classes)}
    held_out = hold_out(list(placed), val_fraction)
    files = tuple(
        ImageFile(file, name, numbers.get(label, NO_LABEL), "val" if name in held_out else "train")
        for name, (file, label) in placed.items()
    )
    return FolderListing(path if remote else copy, files, tuple(classes), ())


def printable_name(path: str | os.PathLike) -> str:
    """A path as one line of text that can be stored anywhere; distinct paths stay distinct.

    Line ends, backslashes and bytes that are not valid UTF-8 become escapes.
    """
    text = os.fspath(path)
    if _NEEDS_ESCAPES.search(text) is None:
        return text
    return _escape(text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r"))


def _escape(text: str) -> str:
    """Bytes that are not valid UTF-8 (and hence are surrogates) as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _number_classes(folders: set[str]) -> dict[str, tuple[str, int]]:
    """Name and number of each folder's class: the folder's name, exactly, if it is valid UTF-8.

    Raises:
        ValueError: When two folders would be one class.
    """
    names = sorted((_escape(folder), folder) for folder in folders)
    for (name, folder), (other_name, other) in itertools.pairwise(names):
        if name == other_name:
            raise ValueError(f"the folders {folder!r} and {other!r} would be one class: rename one")
    return {folder: (name, number) for number, (name, folder) in enumerate(names)}


def _checked_root(folder: str | os.PathLike) -> pathlib.Path:
    root = pathlib.Path(folder).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"the image folder {root} does not exist")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file; give the directory that holds the images")
    return root


def _walk(root: pathlib.Path) -> tuple[list[str], list[LeftOut]]:
    """Returns the image files below `root`, relative to it, and, named, everything else.

    One listing a folder and no look at any file whose name says what it is.
    """
    found: list[str] = []
    left_out: list[LeftOut] = []
    visited = {_identity(root)}
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        directory = os.path.join(root, inside)
        folders = []
        for entry in storage.retry(lambda path=directory: _entries(path), directory):
            path = inside + entry.name
            if _is_plain_image(entry):
                found.append(path)
                continue
            kind = storage.retry(lambda entry=entry: _kind(entry), entry.path)
            reason = _why_not_entered(entry.name) if kind == "folder" else None
            if kind == "folder" and reason is None:
                identity = storage.retry(lambda entry=entry: _identity(entry.path), entry.path)
                if identity in visited:
                    reason = "link to a folder that is already listed"
                else:
                    visited.add(identity)
                    folders.append(path + "/")
            elif kind != "folder":
                reason = _why_no_image(entry.name, entry.path, kind)
                if reason is None:
                    found.append(path)
            if reason is not None:
                left_out.append(LeftOut(printable_name(path), reason))
        waiting += reversed(folders)
    return found, left_out


def _list_bucket(url: str) -> tuple[dict[str, buckets.RemoteFile], list[LeftOut]]:
    """Returns the images below a place in a bucket by name and, named, everything else."""
    found: dict[str, buckets.RemoteFile] = {}
    left_out: list[LeftOut] = []
    for path, listed in buckets.list_objects(url).items():
        *folders, name = path.split("/")
        file = buckets.RemoteFile(f"{url}/{path}", listed)
        reason = next(filter(None, map(_why_not_entered, folders)), None)
        reason = reason or _why_no_image(name, file, "file")
        if reason is None:
            found[path] = file
        else:
            left_out.append(LeftOut(printable_name(path), reason))
    return found, left_out


def _entries(directory: str) -> list[os.DirEntry]:
    with os.scandir(directory) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _identity(folder: str | os.PathLike) -> tuple[int, int]:
    """A key that a folder shares with the links to it."""
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def _kind(entry: os.DirEntry) -> str:
    """Tells folders, files and others apart; asks the system only about links."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    return "link to nothing" if entry.is_symlink() else "not a regular file"


def _is_plain_image(entry: os.DirEntry) -> bool:
    """Tells a file, and no link, by its name to be an image; the listing knows both."""
    return (
        "." + entry.name.rpartition(".")[2].lower() in images.EXTENSIONS
        and entry.name[0] != "."
        and entry.is_file(follow_symlinks=False)
    )


def _why_not_entered(name: str) -> str | None:
    if name.startswith("."):
        return "hidden folder"
    return "folder of the system" if name.lower() in SYSTEM_FOLDERS else None


def _why_no_image(name: str, path: str | buckets.RemoteFile, kind: str) -> str | None:
    """Judges by the name and, where that says nothing, by the first bytes."""
    if name.startswith("."):
        return "hidden file"
    if kind != "file":
        return kind  # reading a pipe would wait forever
    extension = "." + name.rpartition(".")[2].lower()
    if extension in images.EXTENSIONS:
        return None
    if extension in images.NEED_A_PLUGIN:
        return f"Pillow cannot read it: pip install {images.NEED_A_PLUGIN[extension]}"
    if images.looks_like_image(path):
        return None
    other = images.OTHER_FORMATS.get(extension)
    return f"{other} files are not read" if other else "not an image"


def _split_folders(paths: list[str]) -> dict[str, str]:
    """Maps top-level folder names to split names; empty when they are classes or plain folders.

    They are splits when one is the train folder and there is a folder of another split, or no other
    one at all: a class may well be called "train".
    """
    top = {path.partition("/")[0] for path in paths if "/" in path}
    found = {name: SPLIT_FOLDERS[name.lower()] for name in top if name.lower() in SPLIT_FOLDERS}
    splits = set(found.values())
    return found if "train" in splits and (len(splits) > 1 or len(found) == len(top)) else {}


class _Placed(typing.NamedTuple):
    """An image whose place in the data set is known."""

    path: str
    name: str
    split: str
    folder: str | None  # that names the class


def _assign_splits(
    paths: list[str], split_of: dict[str, str]
) -> tuple[list[_Placed], list[LeftOut]]:
    """Gives each path its name, split and class name."""
    placed, outside = [], []
    of_directory: dict[str, tuple[str, str | None] | None] = {}  # split and class
    for path in paths:
        directory = path.rpartition("/")[0]
        if directory not in of_directory:
            folders, split = directory.split("/") if directory else [], "train"
            if split_of and folders:
                split, folders = split_of.get(folders[0], ""), folders[1:]
            known = not split_of or (directory and split)
            of_directory[directory] = (split, folders[0] if folders else None) if known else None
        if (place := of_directory[directory]) is None:
            outside.append(LeftOut(printable_name(path), "image outside the split folders"))
        else:
            placed.append(_Placed(path, printable_name(path), *place))
    return placed, outside


def hold_out(names: list[str], fraction: float) -> set[str]:
    """Chooses about `fraction` of the files for the split "val"; neither split is left empty."""
    if fraction == 0 or len(names) < 2:
        return set()
    draws = sorted((_draw(name), name) for name in names)
    below = bisect.bisect_left(draws, (fraction,))
    return {name for _, name in draws[: min(max(below, 1), len(names) - 1)]}


def _draw(name: str) -> float:
    """A number in [0, 1) that looks random but belongs to the name."""
    digest = hashlib.sha256(name.encode("utf-8")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def count_by_split(files: tuple[ImageFile, ...]) -> dict[str, int]:
    """Number of files in each split."""
    return dict(collections.Counter(file.split for file in files))
