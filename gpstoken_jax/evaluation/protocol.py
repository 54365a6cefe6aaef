"""What every evaluation's protocol says, whatever is evaluated."""

import subprocess
import zlib
from pathlib import Path

import jax

from gpstoken_jax.data import ImageSource
from gpstoken_jax.evaluation.settings import Settings


def shared_protocol(settings: Settings, rounding: str) -> dict[str, object]:
    """How metrics were taken, by what program, on what machine."""
    lpips = settings.lpips
    return {
        "colour_range": "[0, 1] RGB",
        "rounding": rounding,
        "lpips": f"{lpips.network}, version 0.1" if lpips else "not measured",
        "frechet": settings.network.description if settings.network else "not measured",
        "frechet_reference": _reference(settings),
        "commit": commit(),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }


def _reference(settings: Settings) -> str:
    """Where the statistics are from that distances are taken to, and which they are."""
    if settings.reference is None:
        return "the originals of the same images"
    crc = 0
    for gaussian in settings.reference.values():
        crc = zlib.crc32(gaussian.covariance.tobytes(), zlib.crc32(gaussian.mean.tobytes(), crc))
    return f"{settings.reference_name} (CRC-32 {crc:08x})"


def fingerprint(source: ImageSource) -> str:
    """A checksum that changes with the list of images, and for a folder with any file's date.

    A prepared data set is known by its description, which has its version and size.
    """
    crc = zlib.crc32(f"{source.description} {len(source)}".encode())
    for file in getattr(source, "files", ()):
        crc = zlib.crc32(f"{file.name} {state_of_file(file.path)}".encode(), crc)
    return f"{crc:08x}"


def state_of_file(path: Path) -> str:
    """Size and date; of a file that has none, the reason."""
    try:
        stat = path.stat()
        return f"{stat.st_size} {stat.st_mtime_ns}"
    except OSError as error:
        return str(error)


def commit() -> str | None:
    """The project's commit, None outside a git checkout; "+" marks uncommitted changes."""
    command = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        head, changes = (
            subprocess.run([*command, *rest], capture_output=True, text=True, check=True).stdout
            for rest in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("+" if changes.strip() else "")
