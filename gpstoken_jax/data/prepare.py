"""Makes a TFDS data set from listed image files, with a report that accounts for every file."""

import collections
import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
import shutil
import tempfile
import time
from typing import Any, TextIO

from gpstoken_jax.data import folder, images
from gpstoken_jax.data.loader import available_cores

REPORT_NAME = "report.json"
_DATA_SET = "image_files/1.0.0"  # where TFDS puts what the builder of that name and version writes
SMALL_SIDE = 256  # images with a shorter side are named: a 256 x 256 crop enlarges them
_PROGRESS_SECONDS = 5.0


class DataSetExistsError(FileExistsError):
    """The output directory already holds a data set made from other files or settings."""


@dataclasses.dataclass
class _Account:
    """What became of each file."""

    written: dict[str, collections.Counter] = dataclasses.field(default_factory=dict)
    converted: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    re_encoded: int = 0
    small: list[str] = dataclasses.field(default_factory=list)
    skipped: list[dict[str, str]] = dataclasses.field(default_factory=list)

    def add(self, file: folder.ImageFile, outcome: Any) -> None:
        """Books one file: `outcome` is (record, conversions) or the error."""
        if isinstance(outcome, images.UnreadableImageError):
            self.skipped.append({"file": file.name, "reason": str(outcome)})
            return
        record, conversions = outcome
        self.written.setdefault(file.split, collections.Counter())[file.label] += 1
        self.re_encoded += bool(conversions)
        for conversion in conversions:
            self.converted.setdefault(conversion, []).append(file.name)
        if min(record["height"], record["width"]) < SMALL_SIDE:
            self.small.append(file.name)


def prepare(
    listing: folder.FolderListing,
    output: str | pathlib.Path,
    overwrite: bool = False,
    progress_to: TextIO | None = None,
) -> dict[str, Any]:
    """Writes the listed images to `output` as a TFDS data set and its report as report.json.

    When `output` already holds the data set of exactly these files, nothing is written.

    Args:
        listing: The files (`folder.list_folder` or `demo.list_demo_photos`).
        output: Directory to make; `data.tfds_dir` of the programs.
        overwrite: Replace a data set that is there.
        progress_to: Where progress lines go; None for none.

    Returns:
        The report: counts and names of what was written, converted and skipped.

    Raises:
        DataSetExistsError: When `output` holds another data set and `overwrite` is not set.
        ValueError: When no image of some split can be read.
        OSError: When `output` cannot be written.
    """
    output = pathlib.Path(output).expanduser()
    fingerprint = _fingerprint(listing)
    old = read_report(output)
    if old is not None and old["fingerprint"] == fingerprint and not overwrite:
        return old | {"reused": True}
    if _is_finished(output) and not overwrite:
        raise DataSetExistsError(
            f"{output} already holds a data set made from other files or settings: "
            "pass --overwrite to replace it, or choose another --output"
        )
    started = time.monotonic()
    account = _write(listing, output, progress_to)
    report = _report(listing, account, fingerprint, time.monotonic() - started)
    (output / REPORT_NAME).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report | {"reused": False}


def read_report(output: pathlib.Path) -> dict[str, Any] | None:
    """Returns the report of a finished data set; None when there is none or it is damaged."""
    try:
        report = json.loads((output / REPORT_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if _is_finished(output) and "fingerprint" in report else None


def _is_finished(output: pathlib.Path) -> bool:
    """Whether a data set was written to its end; TFDS gives it its name only then."""
    return (output / _DATA_SET / "dataset_info.json").exists()


def _write(
    listing: folder.FolderListing, output: pathlib.Path, progress_to: TextIO | None
) -> _Account:
    import tensorflow_datasets as tfds

    from gpstoken_jax.data.builder import ImageFiles

    # Also clears what a killed preparation left behind. The report goes first, so that it never
    # describes a data set that is no longer there.
    output.mkdir(parents=True, exist_ok=True)
    (output / REPORT_NAME).unlink(missing_ok=True)
    if (output / "image_files").exists():
        shutil.rmtree(output / "image_files")
    account = _Account()
    progress = _Progress(len(listing.files), progress_to)

    def on_file(file: folder.ImageFile, outcome: Any) -> None:
        account.add(file, outcome)
        progress.advance()

    builder = ImageFiles(
        listing=listing, data_dir=str(output), on_file=on_file, num_threads=available_cores()
    )
    with tempfile.TemporaryDirectory() as unused_downloads:
        tfds.display_progress_bar(False)  # ours counts files and says how long it will take
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare(download_dir=unused_downloads)
        except Exception:
            _explain_empty_split(listing, account)
            raise
        finally:
            tfds.display_progress_bar(True)
    return account


def _explain_empty_split(listing: folder.FolderListing, account: _Account) -> None:
    """Raises a ValueError when preparing failed because no image of a split was readable."""
    sizes = folder.count_by_split(listing.files)
    lost = [entry["file"] for entry in account.skipped]
    for split, size in sizes.items():
        if split not in account.written and len(set(lost) & _names(listing, split)) == size:
            examples = "; ".join(f"{e['file']}: {e['reason']}" for e in account.skipped[:5])
            raise ValueError(f"no image of split {split!r} can be read ({examples})") from None


def _names(listing: folder.FolderListing, split: str) -> set[str]:
    return {file.name for file in listing.split(split)}


def _fingerprint(listing: folder.FolderListing) -> str:
    """Changes when a file is added, removed, altered or moved to another split or class."""
    digest = hashlib.sha256(json.dumps(listing.label_names).encode())
    for file in listing.files:
        try:
            stat = file.path.stat()
            version = (stat.st_size, stat.st_mtime_ns)
        except OSError:
            version = (-1, -1)
        digest.update(json.dumps([file.name, file.label, file.split, version]).encode())
    return digest.hexdigest()


def _report(
    listing: folder.FolderListing, account: _Account, fingerprint: str, seconds: float
) -> dict[str, Any]:
    skipped = account.skipped + [
        {"file": entry.name, "reason": entry.reason} for entry in listing.left_out
    ]
    written = sum(sum(counts.values()) for counts in account.written.values())
    return {
        "source": folder.printable_name(listing.root),
        "files_found": len(listing.files) + len(listing.left_out),
        "images_written": written,
        "bytes_kept": written - account.re_encoded,
        "re_encoded": account.re_encoded,
        "splits": {
            split: {
                "images": sum(counts.values()),
                "by_class": {
                    listing.label_names[label] if label >= 0 else "(none)": count
                    for label, count in sorted(counts.items())
                },
            }
            for split, counts in sorted(account.written.items())
        },
        "converted": {
            what: {"count": len(names), "files": names}
            for what, names in sorted(account.converted.items())
        },
        "smaller_than_256": {"count": len(account.small), "files": account.small},
        "skipped": {"count": len(skipped), "files": skipped},
        "seconds": round(seconds, 2),
        "fingerprint": fingerprint,
    }


def format_summary(report: dict[str, Any], output: str | pathlib.Path, named: int = 10) -> str:
    """The report in a few lines; at most `named` skipped files are named."""
    splits = ", ".join(f"{split} {info['images']}" for split, info in report["splits"].items())
    classes = {name for info in report["splits"].values() for name in info["by_class"]}
    lines = [
        f"Data set in {output}: {report['images_written']} images ({splits}), "
        + (f"{len(classes)} classes" if classes != {"(none)"} else "no class labels"),
        f"  kept as they were: {report['bytes_kept']}, re-encoded: {report['re_encoded']}",
    ]
    lines += [
        f"  converted: {info['count']} x {what}" for what, info in report["converted"].items()
    ]
    if report["smaller_than_256"]["count"]:
        lines.append(f"  smaller than 256 pixels: {report['smaller_than_256']['count']}")
    lines.append(f"  skipped: {report['skipped']['count']} of {report['files_found']} files")
    skipped = report["skipped"]["files"]
    lines += [f"    {entry['file']}: {entry['reason']}" for entry in skipped[:named]]
    if len(skipped) > named:
        lines.append(f"    and {len(skipped) - named} more")
    lines.append(f"  every file's fate: {pathlib.Path(output) / REPORT_NAME}")
    return "\n".join(lines)


class _Progress:
    """One line every few seconds, readable on a terminal and in a log."""

    def __init__(self, total: int, stream: TextIO | None):
        self._total = total
        self._stream = stream
        self._done = 0
        self._start = self._last = time.monotonic()

    def advance(self) -> None:
        self._done += 1
        now = time.monotonic()
        if self._stream is None or now - self._last < _PROGRESS_SECONDS:
            return
        self._last = now
        rate = self._done / (now - self._start)
        print(
            f"  {self._done}/{self._total} images ({self._done / self._total:.0%}), "
            f"{rate:.0f}/s, {(self._total - self._done) / rate:.0f} s left",
            file=self._stream,
            flush=True,
        )
