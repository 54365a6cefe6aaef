"""A folder of images beside a folder of references: which belongs to which, and their batches.

An image and its reference have the same path below their folders but for the file's extension.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gpstoken_jax import data
from gpstoken_jax.data.folder import ImageFile, list_folder
from gpstoken_jax.data.images import FORMATS, decode, read_bytes
from gpstoken_jax.data.loader import Unreadable
from gpstoken_jax.data.sources import Example

_NAMED = 3  # files named in an error
Size = tuple[int, int]


@dataclass(frozen=True)
class Pair:
    """An image, its reference and the size (height, width) at which they are compared."""

    image: ImageFile
    reference: ImageFile
    size: Size


def find_pairs(images: Path, references: Path, size: Size | None = None) -> list[Pair]:
    """All pairs of two folders, sorted by name.

    Args:
      images: what some program wrote.
      references: what it was given.
      size: (height, width) that references are brought to, as for a tokenizer; every image must
        have it. None: an image must have the size of its reference.

    Raises:
      ValueError: a missing partner, two files of one name but for the extension, an image of
        another size or an unreadable file; names them.
      FileNotFoundError, NotADirectoryError: if there is no such folder.
    """
    made, given = _by_stem(images), _by_stem(references)
    for name, one, other in (("image", given, made), ("reference", made, given)):
        if lonely := [one[stem].name for stem in one if stem not in other]:
            of, where = (references, images) if name == "image" else (images, references)
            raise ValueError(f"no {name} in {where} for {_some(lonely)} of {of}")
    pairs = []
    for stem in sorted(made):
        found, wanted = _size(made[stem]), size or _size(given[stem])
        if found != wanted:
            raise ValueError(
                f"{made[stem].path} is {found[0]} x {found[1]} pixels (height x width) and should "
                f"be {wanted[0]} x {wanted[1]}, "
                + ("the size asked for" if size else f"as {given[stem].path} is")
            )
        pairs.append(Pair(made[stem], given[stem], wanted))
    return pairs


def _by_stem(folder: Path) -> dict[str, ImageFile]:
    """The images of a folder by name without extension."""
    found: dict[str, ImageFile] = {}
    for file in list_folder(folder).files:
        stem = str(Path(file.name).with_suffix(""))
        if stem in found:
            raise ValueError(f"{folder} has both {found[stem].name} and {file.name}: which is it?")
        found[stem] = file
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _size(file: ImageFile) -> Size:
    """Height and width of an upright image, from its header."""
    try:
        with Image.open(file.path, formats=FORMATS) as image:
            exif = Image.Image.getexif(image)  # that of a PNG file would read all its pixels
            turned = exif.get(0x0112, 1) in (5, 6, 7, 8)
            return image.size if turned else image.size[::-1]
    except Exception as error:
        raise ValueError(f"{file.path} cannot be read: {error}") from error


@dataclass(frozen=True)
class _Files:
    """Some files as a source."""

    files: tuple[ImageFile, ...]
    label_names: tuple[str, ...] = ()
    description: str = ""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        file = self.files[index]
        return Example(decode(read_bytes(file.path)).pixels, -1, file.name)

    def name(self, index: int) -> str:
        return self.files[index].name


class PairBatches:
    """Every pair once, size by size: the image as ``given``, its reference as ``image``.

    Iterating raises ValueError at a file that cannot be read: a mean over fewer images than another
    method's could not be compared with it.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        open_batches: Callable[[data.ImageSource, Size], data.EvalBatches],
    ):
        self.unreadable = Unreadable()
        self._groups = defaultdict(list)
        for position, pair in enumerate(pairs):
            self._groups[pair.size].append((position, pair))
        self._open = open_batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for size, group in self._groups.items():
            positions = np.array([position for position, _ in group])
            made, given = (
                self._open(_Files(tuple(getattr(pair, kind) for _, pair in group)), size)
                for kind in ("image", "reference")
            )
            for ours, theirs in zip(made, given, strict=True):
                _check_readable(made, given)
                _check_sizes(ours, size)
                yield theirs | {
                    "given": ours["image"],
                    "name": ours["name"],
                    "position": np.where(theirs["mask"], positions[theirs["position"]], -1),
                }


def _check_sizes(batch: dict[str, Any], size: Size) -> None:
    """The loader would bring an image of another size to this one, which nobody asked for."""
    for name, found in zip(batch["name"], batch["size"].tolist(), strict=True):
        if name and tuple(found) != size:
            raise ValueError(f"{name} is {found[0]} x {found[1]} pixels, not {size[0]} x {size[1]}")


def _check_readable(*batches: data.EvalBatches) -> None:
    for one in batches:
        for name, reason in one.unreadable.reasons.items():
            raise ValueError(f"{name} cannot be read: {reason}")
