"""Images in one ``.npz`` file, as the evaluation suite of "Diffusion Models Beat GANs" takes them.

``arr_0`` is uint8 [N, H, W, 3], stored as ``numpy.savez`` does, without compression: so any image
is read from its place, and 50,000 of them need no memory. ``arr_1``, labels, is passed over.
"""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpstoken_jax.data.examples import Example
from gpstoken_jax.runtime.files import reading
from gpstoken_jax.runtime.fingerprints import fingerprint_files
from gpstoken_jax.runtime.storage import retry

_LOCAL_HEADER = 30  # bytes, before the member's name


@dataclass(frozen=True)
class ArchiveSource:
    """Images of an ``.npz`` file, as a source; ``offset`` is that of the first byte of pixels."""

    path: Path
    shape: tuple[int, int, int, int]
    offset: int
    label_names: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """A line for protocols."""
        return f"file {self.path}: {len(self)} images"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> Example:
        def read() -> np.ndarray:
            size = math.prod(self.shape[1:])
            pixels = np.fromfile(self.path, np.uint8, size, offset=self.offset + index * size)
            return pixels.reshape(self.shape[1:])

        return Example(retry(read, self.path), -1, self.name(index))

    def name(self, index: int) -> str:
        """The number of an image."""
        return f"{index:06d}"

    def fingerprint(self, *, content: bool = False) -> str:
        """A digest that changes with the file."""
        return fingerprint_files([(self.path.name, self.path)], content=content)


def open_archive(path: Path) -> ArchiveSource:
    """Finds the images in an ``.npz`` file.

    Raises:
      ValueError: if they are not there as described above; names the file.
      OSError: if it cannot be opened.
    """
    with path.open("rb") as file, reading(path, "an .npz file of images", ValueError):
        with zipfile.ZipFile(file) as archive:
            member = archive.getinfo("arr_0.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError("arr_0 is compressed; write it with numpy.savez")
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER)
        lengths = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
        file.seek(sum(lengths), 1)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        shape, fortran, dtype = (
            read(file) if version == (1, 0) else np.lib.format.read_array_header_2_0(file)
        )
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or fortran or 0 in shape:
            raise ValueError(f"arr_0 is {dtype} {shape}, not uint8 [N, H, W, 3]")
        offset = file.tell()
        if offset + math.prod(shape) > path.stat().st_size:
            raise ValueError(f"the file ends before its {shape[0]} images do")
        return ArchiveSource(path, shape, offset)
