"""A directory of images as a list of files with labels and splits.

    FOLDER/**.jpg                       no labels
    FOLDER/<class>/**.jpg               the first sub-folder is the class
    FOLDER/{train,val}/...              the same within each split

Split folders may be called train, training, val, valid, validation or test.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib

from gpstoken_jax.data import images

NO_LABEL = -1
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """One image to read: where it is, its name in the data set, its class and its split."""

    path: pathlib.Path
    name: str
    label: int
    split: str


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Something in the folder that does not become part of the data set, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class FolderListing:
    """What a folder holds.

    Attributes:
        root: The folder.
        files: All image files, sorted by name.
        label_names: Class names; `ImageFile.label` indexes them, `NO_LABEL` has none.
        left_out: Other files, unreadable folders and the like.
    """

    root: pathlib.Path
    files: tuple[ImageFile, ...]
    label_names: tuple[str, ...]
    left_out: tuple[LeftOut, ...]

    def split(self, name: str) -> tuple[ImageFile, ...]:
        """The files of one split, or of every split for "all"."""
        return tuple(file for file in self.files if name in ("all", file.split))


def list_folder(folder: str | os.PathLike, val_fraction: float = 0.0) -> FolderListing:
    """Lists the images below a folder, with classes and splits.

    Args:
        folder: A directory of images.
        val_fraction: Share of the images to hold out as split "val" where the folder has no split
            folders of its own, in [0, 1). The choice hangs on each file's name alone, so adding
            images never moves an old one to the other side.

    Raises:
        FileNotFoundError: When the folder does not exist.
        NotADirectoryError: When it is no directory.
        ValueError: When `val_fraction` is outside [0, 1) or no image was found.
    """
    root = _checked_root(folder)
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be in [0, 1), got {val_fraction}")
    paths, left_out = _walk(root)
    split_of = _split_folders(root, paths)
    placed, outside = _place(root, paths, split_of)
    left_out += outside
    if not placed:
        raise ValueError(
            f"no image found below {root}" + (f" ({len(left_out)} other files)" if left_out else "")
        )
    if not split_of:
        placed = _hold_out(placed, val_fraction)
    label_names = sorted({class_name for *_, class_name in placed if class_name is not None})
    numbers = {name: number for number, name in enumerate(label_names)}
    files = [
        ImageFile(path, name, numbers.get(class_name, NO_LABEL), split)
        for path, name, split, class_name in placed
    ]
    files.sort(key=lambda file: file.name)
    return FolderListing(root, tuple(files), tuple(label_names), tuple(left_out))


def printable_name(path: pathlib.PurePath) -> str:
    """A path as text that can be stored anywhere, also where its bytes are not valid UTF-8."""
    text = path.as_posix().encode("utf-8", "backslashreplace").decode("utf-8")
    return text.replace("\n", "\\n").replace("\r", "\\r")


def _checked_root(folder: str | os.PathLike) -> pathlib.Path:
    root = pathlib.Path(folder).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"the image folder {root} does not exist")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file; give the directory that holds the images")
    return root


def _walk(root: pathlib.Path) -> tuple[list[pathlib.Path], list[LeftOut]]:
    """Returns the image files below `root` and, named, everything else."""
    found: list[pathlib.Path] = []
    left_out: list[LeftOut] = []
    visited = {os.path.realpath(root)}

    def leave_out(path: str | pathlib.Path, reason: str) -> None:
        left_out.append(LeftOut(printable_name(pathlib.Path(path).relative_to(root)), reason))

    def on_error(error: OSError) -> None:
        leave_out(error.filename, f"folder cannot be read: {error.strerror}")

    for directory, folders, files in os.walk(root, onerror=on_error, followlinks=True):
        for name in sorted(folders):
            path = os.path.join(directory, name)
            real = os.path.realpath(path)
            if name.startswith("."):
                leave_out(path, "hidden folder")
            elif real in visited:
                leave_out(path, "link to a folder that is already listed")
            else:
                visited.add(real)
                continue
            folders.remove(name)
        folders.sort()
        for name in sorted(files):
            path = pathlib.Path(directory, name)
            reason = _why_no_image(path)
            if reason is None:
                found.append(path)
            else:
                leave_out(path, reason)
    return found, left_out


def _why_no_image(path: pathlib.Path) -> str | None:
    """Judges by the name and, where that says nothing, by the first bytes."""
    if path.name.startswith("."):
        return "hidden file"
    if path.exists() and not path.is_file():
        return "not a regular file"  # reading a pipe would wait forever
    if path.suffix.lower() in images.EXTENSIONS or images.looks_like_image(path):
        return None
    return "not an image"


def _split_folders(root: pathlib.Path, paths: list[pathlib.Path]) -> dict[str, str]:
    """Maps top-level folder names to split names; empty when they are classes or plain folders.

    They are splits when one is the train folder and no other top-level folder holds images:
    a class may well be called "train".
    """
    parents = [path.relative_to(root).parts[:-1] for path in paths]
    top = {parts[0] for parts in parents if parts}
    found = {name: SPLIT_FOLDERS[name.lower()] for name in top if name.lower() in SPLIT_FOLDERS}
    return found if "train" in found.values() and len(found) == len(top) else {}


def _place(
    root: pathlib.Path, paths: list[pathlib.Path], split_of: dict[str, str]
) -> tuple[list[tuple[pathlib.Path, str, str, str | None]], list[LeftOut]]:
    """Gives each path its name, split and class name."""
    placed, outside = [], []
    for path in paths:
        relative = path.relative_to(root)
        name, folders, split = printable_name(relative), relative.parts[:-1], "train"
        if split_of:
            if not folders:
                outside.append(LeftOut(name, "image outside the split folders"))
                continue
            split, folders = split_of[folders[0]], folders[1:]
        class_name = printable_name(pathlib.PurePath(folders[0])) if folders else None
        placed.append((path, name, split, class_name))
    return placed, outside


def _hold_out(
    placed: list[tuple[pathlib.Path, str, str, str | None]], fraction: float
) -> list[tuple[pathlib.Path, str, str, str | None]]:
    """Moves about `fraction` of the files to the split "val"; neither split is left empty."""
    if fraction == 0 or len(placed) < 2:
        return placed
    by_draw = sorted((name for _, name, *_ in placed), key=_draw)
    below = sum(_draw(name) < fraction for name in by_draw)
    held_out = set(by_draw[: min(max(below, 1), len(placed) - 1)])
    return [
        (path, name, "val" if name in held_out else split, class_name)
        for path, name, split, class_name in placed
    ]


def _draw(name: str) -> float:
    """A number in [0, 1) that looks random but belongs to the name."""
    digest = hashlib.sha256(name.encode("utf-8")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def count_by_split(files: tuple[ImageFile, ...]) -> dict[str, int]:
    """Number of files in each split."""
    return dict(collections.Counter(file.split for file in files))
