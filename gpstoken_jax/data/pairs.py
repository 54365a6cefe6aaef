"""A folder of images beside a folder of references: which belongs to which, and their batches.

An image and its reference have the same path below their folders but for the file's extension.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gpstoken_jax.data.examples import Example
from gpstoken_jax.data.folder import ImageFile, list_folder
from gpstoken_jax.data.images import FORMATS, decode, read_bytes
from gpstoken_jax.data.loader import ReadAhead, Unreadable, eval_batches

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
        return Example(decode(read_bytes(file.path)).picture, -1, file.name)

    def name(self, index: int) -> str:
        return self.files[index].name


class PairBatches:
    """Batches of pairs, of one size each: the image as ``given``, its reference as ``image``.

    Iterating raises ValueError at a file that cannot be read: a mean over fewer images than another
    method's could not be compared with it.

    Args:
      pairs: all of them; those of one size follow each other.
      batch_size: images a batch.
      positions: of the pairs to go through, which batches name; all by default.
    """

    def __init__(
        self, pairs: Sequence[Pair], batch_size: int, positions: Sequence[int] | None = None
    ):
        self.unreadable = Unreadable()
        self._pairs, self._batch_size = pairs, batch_size
        self._positions = range(len(pairs)) if positions is None else positions

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for size, group in groupby(self._positions, key=lambda i: self._pairs[i].size):
            positions = np.array(list(group))
            made, given = (
                eval_batches(
                    _Files(tuple(getattr(self._pairs[i], kind) for i in positions)),
                    ReadAhead(),
                    size,
                    self._batch_size,
                )
                for kind in ("image", "reference")
            )
            for ours, theirs in zip(made, given, strict=True):
                check_batch(ours, made.unreadable, size, "its reference")
                check_batch(theirs, given.unreadable)
                yield theirs | {
                    "given": ours["image"],
                    "name": ours["name"],
                    "position": np.where(theirs["mask"], positions[theirs["position"]], -1),
                }


def check_batch(
    batch: dict[str, Any], unreadable: Unreadable, size: Size | None = None, other: str = ""
) -> None:
    """Refuses images that cannot be read, or (given a size) were brought to it by the loader.

    Raises:
      ValueError: naming the first of them, and ``other``, which has the right size.
    """
    for name, reason in unreadable.reasons.items():
        raise ValueError(f"{name} cannot be read: {reason}")
    for name, found in zip(batch["name"], batch["size"].tolist(), strict=True):
        if size and name and tuple(found) != size:
            raise ValueError(
                f"{name} is {found[0]} x {found[1]} pixels, not {size[0]} x {size[1]} as {other}"
            )
