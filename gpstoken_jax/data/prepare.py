"""Makes a TFDS data set from listed image files, with a report that accounts for every file."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from gpstoken_jax.data import folder, images, sources
from gpstoken_jax.data.loader import available_cores
from gpstoken_jax.runtime.files import read_json, sealed_json
from gpstoken_jax.runtime.outputs import Output, open_output
from gpstoken_jax.runtime.progress import Progress
from gpstoken_jax.runtime.text import terminal_text

REPORT_NAME = "report.json"
SHARD_SIZE = 1024  # images a file
SMALL_SIDE = 256  # images with a shorter side are named: a 256 x 256 crop enlarges them
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass
class _Account:
    """Files of one shard, counted by their fate.

    Attributes:
        written: Images by class, -1 for none.
        converted: Names by what was done.
        re_encoded: How many are not the file's own bytes.
        small: Names of small images.
        skipped: Name and reason.
        bytes: Length of the records.
    """

    written: dict[int, int] = dataclasses.field(default_factory=dict)
    converted: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    re_encoded: int = 0
    small: list[str] = dataclasses.field(default_factory=list)
    skipped: list[dict[str, str]] = dataclasses.field(default_factory=list)
    bytes: int = 0

    @property
    def count(self) -> int:
        """Images that were written."""
        return sum(self.written.values())

    def add(self, file: folder.ImageFile, outcome: Any) -> None:
        """Books one file: `outcome` is (record, conversions) or the error."""
        if isinstance(outcome, images.UnreadableImageError):
            self.skipped.append({"file": file.name, "reason": str(outcome)})
            return
        record, conversions = outcome
        self.written[file.label] = self.written.get(file.label, 0) + 1
        self.re_encoded += bool(conversions)
        for conversion in conversions:
            self.converted.setdefault(conversion, []).append(file.name)
        if min(record["height"], record["width"]) < SMALL_SIDE:
            self.small.append(file.name)

    @classmethod
    def read(cls, path: pathlib.Path) -> "_Account":
        """Reads what `_write_records` wrote."""
        values = read_json(path, required=True)
        values["written"] = {int(label): count for label, count in values["written"].items()}
        return cls(**values)


def prepare(
    listing: folder.FolderListing,
    output: str | pathlib.Path,
    overwrite: bool = False,
    *,
    verify: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes the listed images to `output` as a TFDS data set and its report as report.json.

    When `output` already holds the data set of exactly these files, nothing is written; an
    interrupted preparation of them goes on.

    Args:
        listing: The files (`folder.list_folder` or `demo.list_demo_photos`).
        output: Directory to make; `data.tfds_dir` of the programs.
        overwrite: Replace the data set of other files that is there.
        verify: Know files by their content, not by size and date.
        progress: Counts the images.

    Returns:
        The report: counts and names of what was written, converted and skipped.

    Raises:
        OutputError: When `output` holds anything else, or overlaps with the folder of the images.
        ValueError: When no image of some split can be read.
        OSError: When an image cannot be read, or `output` not be written.
    """
    digest = sources.fingerprint(listing.files, listing.label_names, verify)
    result = open_output(
        output, sources.KIND, {"images": digest}, inputs=[listing.root], overwrite=overwrite
    )
    with result:
        if result.complete and result.has(REPORT_NAME):
            return read_report(result.directory) | {"reused": True}
        started = time.monotonic()
        accounts = _write_records(listing, result, progress)
        seconds = time.monotonic() - started
        report = _report(listing, accounts, digest, seconds)
        result.write(REPORT_NAME, sealed_json(report, indent=1))
        result.finish({"images": report["images_written"]})
    return report | {"reused": False}


def read_report(output: str | pathlib.Path) -> dict[str, Any]:
    """Reads the report of a finished data set.

    Raises:
        DamagedFileError: When it is not what was written.
        OSError: When it cannot be read.
    """
    return read_json(pathlib.Path(output) / REPORT_NAME, required=True)


def _write_records(
    listing: folder.FolderListing, output: Output, progress: Progress | None
) -> dict[str, list[_Account]]:
    """Writes all files but the report; those that are there stay."""
    from gpstoken_jax.data import records  # imports TFDS

    layout = records.RecordFormat(listing.label_names)
    accounts: dict[str, list[_Account]] = {}
    kept = []
    for split in sorted(folder.count_by_split(listing.files)):
        files = listing.split(split)
        parts = [files[i : i + SHARD_SIZE] for i in range(0, len(files), SHARD_SIZE)]
        accounts[split] = []
        for number, part in enumerate(parts):
            name = records.shard_name(split, number, len(parts))
            kept.append(f"accounts/{split}-{number:05d}.json")
            if not (output.has(name) and output.has(kept[-1])):
                account = _write_shard(layout, output, name, part, progress)
                output.write(kept[-1], sealed_json(dataclasses.asdict(account), indent=1))
            elif progress:
                progress.advance(len(part))
            accounts[split].append(_Account.read(output.directory / kept[-1]))
        if not any(account.count for account in accounts[split]):
            lost = [entry for account in accounts[split] for entry in account.skipped]
            examples = "; ".join(f"{e['file']}: {e['reason']}" for e in lost[:5])
            raise ValueError(f"no image of split {split!r} can be read ({examples})")
    metadata = layout.metadata(
        {split: [account.count for account in some] for split, some in accounts.items()},
        {split: sum(account.bytes for account in some) for split, some in accounts.items()},
    )
    for name, data in metadata.items():
        output.write(f"{records.NAME}/{records.VERSION}/{name}", data)
    for name in kept:
        output.remove(name)
    with contextlib.suppress(OSError):  # someone else's file is in it
        (output.directory / "accounts").rmdir()
    return accounts


def _write_shard(
    layout: Any,
    output: Output,
    name: str,
    files: Iterable[folder.ImageFile],
    progress: Progress | None,
) -> _Account:
    account = _Account()

    def written() -> Iterator[dict[str, Any]]:
        for file, outcome in _in_order(_try_record, files, available_cores()):
            account.add(file, outcome)
            if progress:
                progress.advance(1)
            if not isinstance(outcome, images.UnreadableImageError):
                yield outcome[0]

    with output.create(name) as file:
        account.bytes = layout.write(file.name, written())
    return account


def _try_record(file: folder.ImageFile) -> tuple[folder.ImageFile, Any]:
    from gpstoken_jax.data import records

    try:
        return file, records.make_record(file)
    except images.UnreadableImageError as error:
        return file, error


def _in_order(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int
) -> Iterator[Result]:
    """Maps in threads, in order, with few results waiting: images are large."""
    remaining = iter(items)
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        first = itertools.islice(remaining, 2 * num_threads)
        waiting = collections.deque(pool.submit(function, item) for item in first)
        while waiting:
            yield waiting.popleft().result()
            for item in itertools.islice(remaining, 1):
                waiting.append(pool.submit(function, item))


def _report(
    listing: folder.FolderListing, accounts: dict[str, list[_Account]], digest: str, seconds: float
) -> dict[str, Any]:
    everything = list(itertools.chain.from_iterable(accounts.values()))
    skipped = [entry for account in everything for entry in account.skipped]
    skipped += [{"file": entry.name, "reason": entry.reason} for entry in listing.left_out]
    small = [name for account in everything for name in account.small]
    converted: dict[str, list[str]] = {}
    for account in everything:
        for what, names in account.converted.items():
            converted.setdefault(what, []).extend(names)
    written = sum(account.count for account in everything)
    re_encoded = sum(account.re_encoded for account in everything)
    by_class = {
        split: sum((collections.Counter(a.written) for a in some), collections.Counter())
        for split, some in accounts.items()
    }
    return {
        "source": folder.printable_name(listing.root),
        "files_found": len(listing.files) + len(listing.left_out),
        "images_written": written,
        "bytes_kept": written - re_encoded,
        "re_encoded": re_encoded,
        "splits": {
            split: {
                "images": counts.total(),
                "by_class": {
                    listing.label_names[label] if label >= 0 else "(none)": count
                    for label, count in sorted(counts.items())
                },
            }
            for split, counts in sorted(by_class.items())
        },
        "converted": {
            what: {"count": len(names), "files": names} for what, names in sorted(converted.items())
        },
        "smaller_than_256": {"count": len(small), "files": small},
        "skipped": {"count": len(skipped), "files": skipped},
        "seconds": round(seconds, 2),
        "fingerprint": digest,
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
    return "\n".join(map(terminal_text, lines))
