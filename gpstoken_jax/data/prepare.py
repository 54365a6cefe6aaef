"""Makes a TFDS data set from listed image files, with a report that accounts for every file."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import multiprocessing
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from gpstoken_jax.data import folder, images, sources, tfds
from gpstoken_jax.data.loader import available_cores, end_with_parent
from gpstoken_jax.data.shrinking import Shrinking
from gpstoken_jax.runtime.files import read_json, sealed_json
from gpstoken_jax.runtime.outputs import Output, open_output
from gpstoken_jax.runtime.progress import Progress
from gpstoken_jax.runtime.text import terminal_text

REPORT_NAME = "report.json"
SHARD_SIZE = 1024  # images a file
_SHARDS_PER_PROCESS = 8  # then a new one takes its place, and its memory comes back
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
        shrunken: How many are smaller than the file's.
        small: Names of small images.
        skipped: Name and reason.
        bytes: Length of the records.
    """

    written: dict[int, int] = dataclasses.field(default_factory=dict)
    converted: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    re_encoded: int = 0
    shrunken: int = 0
    small: list[str] = dataclasses.field(default_factory=list)
    skipped: list[dict[str, str]] = dataclasses.field(default_factory=list)
    bytes: int = 0

    @property
    def count(self) -> int:
        """Images that were written."""
        return sum(self.written.values())

    def add(self, file: folder.ImageFile, outcome: Any) -> None:
        """Books one file: `outcome` is (record, conversions) or the error."""
        from gpstoken_jax.data import records  # imports TFDS

        if isinstance(outcome, images.UnreadableImageError):
            self.skipped.append({"file": file.name, "reason": str(outcome)})
            return
        record, conversions = outcome
        self.written[file.label] = self.written.get(file.label, 0) + 1
        self.re_encoded += bool(conversions)
        shrunken = records.SHRUNKEN in conversions
        self.shrunken += shrunken
        for conversion in set(conversions) - {records.SHRUNKEN}:
            self.converted.setdefault(conversion, []).append(file.name)
        if not shrunken and min(record["height"], record["width"]) < SMALL_SIDE:
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
    shrinking: Shrinking | None = None,
    verify: bool = False,
    workers: int = 1,
    share: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> dict[str, Any] | None:
    """Writes the listed images to `output` as a TFDS data set and its report as report.json.

    When `output` already holds the data set of exactly these files, nothing is written; an
    interrupted preparation of them goes on.

    Args:
        listing: The files (`folder.list_folder` or `demo.list_demo_photos`).
        output: Directory to make; `data.tfds_dir` of the programs.
        overwrite: Replace the data set of other files that is there.
        shrinking: Of large images.
        verify: Know files by their content, not by size and date.
        workers: Processes that read and write, a file of records each.
        share: Number of this share, from 0, and of all shares: each writes every so many-th file of
            records, and the one that writes the last of all finishes the data set.
        progress: Counts the images.

    Returns:
        The report: counts and names of what was written, converted and skipped. None while other
        shares are not done.

    Raises:
        OutputError: When `output` holds anything else, or overlaps with the folder of the images.
        ValueError: When no image of some split can be read, or there is no such share.
        OSError: When an image cannot be read, or `output` not be written.
    """
    if not 0 <= share[0] < share[1]:
        raise ValueError(f"there is no share {share[0]} of {share[1]}, counted from 0")
    digest = sources.fingerprint(listing.files, listing.label_names, verify)
    made_from = {"images": digest, **(dataclasses.asdict(shrinking) if shrinking else {})}
    result = open_output(
        output, tfds.KIND, made_from, inputs=[listing.root], overwrite=overwrite, process=share[0]
    )
    with result:
        if result.complete and result.has(REPORT_NAME):
            return read_report(result.directory) | {"reused": True}
        started = time.monotonic()
        writer = _Writer(listing, shrinking, result)
        writer.write_shards(workers, share, progress)
        result.share()
        with result.only_one() as alone:
            if not (alone and all(map(writer.is_there, writer.shards))):
                return None
            accounts = writer.write_metadata()
            seconds = time.monotonic() - started
            report = _report(listing, accounts, digest, seconds)
            if shrinking:
                report["shrinking"] = {"words": str(shrinking), **dataclasses.asdict(shrinking)}
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


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A file of records and the files that are to be in it."""

    split: str
    name: str
    account: str
    files: tuple[folder.ImageFile, ...]


class _Writer:
    """Writes all files of a data set but the report; those that are there stay."""

    def __init__(self, listing: folder.FolderListing, shrinking: Shrinking | None, output: Output):
        from gpstoken_jax.data import records  # imports TFDS

        self._label_names, self._shrinking, self._output = listing.label_names, shrinking, output
        self.shards = []
        for split in sorted(folder.count_by_split(listing.files)):
            files = listing.split(split)
            parts = [files[i : i + SHARD_SIZE] for i in range(0, len(files), SHARD_SIZE)]
            for number, part in enumerate(parts):
                name = records.shard_name(split, number, len(parts))
                account = f"accounts/{split}-{number:05d}.json"
                self.shards.append(_Shard(split, name, account, part))

    def is_there(self, shard: _Shard) -> bool:
        """Tells whether a shard was written, by whomever."""
        return self._output.has(shard.name) and self._output.has(shard.account)

    def write_shards(self, workers: int, share: tuple[int, int], progress: Progress | None) -> None:
        """Writes this share of the shards."""
        mine = self.shards[share[0] :: share[1]]
        todo = [shard for shard in mine if not self.is_there(shard)]
        if progress and len(todo) < len(mine):
            progress.advance(sum(len(s.files) for s in mine) - sum(len(s.files) for s in todo))
        workers = min(workers, len(todo))
        threads = max(1, available_cores() // max(workers, 1))
        if workers < 2:
            for shard in todo:
                self._write(shard, lambda *args: _write_shard(*args, progress), threads)
            return
        context = multiprocessing.get_context("spawn")
        with (
            concurrent.futures.ProcessPoolExecutor(
                workers, context, end_with_parent, max_tasks_per_child=_SHARDS_PER_PROCESS
            ) as processes,
            concurrent.futures.ThreadPoolExecutor(workers) as pool,
        ):

            def write(shard: _Shard) -> None:
                self._write(shard, lambda *args: processes.submit(_write_shard, *args).result(), 1)
                if progress:
                    progress.advance(len(shard.files))

            waiting = [pool.submit(write, shard) for shard in todo]
            try:
                for future in concurrent.futures.as_completed(waiting):
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _write(self, shard: _Shard, write: Callable[..., _Account], threads: int) -> None:
        with self._output.create(shard.name) as file:
            account = write(file.name, shard.files, self._label_names, self._shrinking, threads)
        text = sealed_json(dataclasses.asdict(account), indent=1)
        self._output.write(shard.account, text)

    def write_metadata(self) -> dict[str, list[_Account]]:
        """Writes what TFDS finds the shards by; returns their accounts by split."""
        from gpstoken_jax.data import records

        accounts: dict[str, list[_Account]] = {}
        for shard in self.shards:
            account = _Account.read(self._output.directory / shard.account)
            accounts.setdefault(shard.split, []).append(account)
        for split, some in accounts.items():
            if not any(account.count for account in some):
                lost = [entry for account in some for entry in account.skipped]
                examples = "; ".join(f"{e['file']}: {e['reason']}" for e in lost[:5])
                raise ValueError(f"no image of split {split!r} can be read ({examples})")
        layout = records.RecordFormat(self._label_names, self._shrinking)
        metadata = layout.metadata(
            {split: [account.count for account in some] for split, some in accounts.items()},
            {split: sum(account.bytes for account in some) for split, some in accounts.items()},
        )
        for name, data in metadata.items():
            self._output.write(f"{records.NAME}/{records.VERSION}/{name}", data)
        for shard in self.shards:
            self._output.remove(shard.account)
        with contextlib.suppress(OSError):  # someone else's file is in it
            (self._output.directory / "accounts").rmdir()
        return accounts


def _write_shard(
    path: str,
    files: tuple[folder.ImageFile, ...],
    label_names: tuple[str, ...],
    shrinking: Shrinking | None,
    threads: int,
    progress: Progress | None = None,
) -> _Account:
    """Writes a file of records; in a process of its own, or here."""
    from gpstoken_jax.data import records

    account = _Account()

    def try_record(file: folder.ImageFile) -> tuple[folder.ImageFile, Any]:
        try:
            return file, records.make_record(file, shrinking)
        except images.UnreadableImageError as error:
            return file, error

    def written() -> Iterator[dict[str, Any]]:
        for file, outcome in _in_order(try_record, files, threads):
            account.add(file, outcome)
            if progress:
                progress.advance(1)
            if not isinstance(outcome, images.UnreadableImageError):
                yield outcome[0]

    account.bytes = records.RecordFormat(label_names).write(path, written())
    return account


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
    shrunken = sum(account.shrunken for account in everything)
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
        **({"shrunken": shrunken} if shrunken else {}),
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
    if "shrinking" in report:
        lines.append(f"  shrunken: {report.get('shrunken', 0)}, {report['shrinking']['words']}")
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
    lines.append(f"  every file's fate: {output}/{REPORT_NAME}")
    return "\n".join(map(terminal_text, lines))
