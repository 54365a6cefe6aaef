"""Output directories: nothing of anyone else is touched, nothing stale is mixed in."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from gpstoken_jax.runtime import files, fingerprints
from gpstoken_jax.runtime.manifest import OutputError, read_manifest
from gpstoken_jax.runtime.outputs import open_output

FROM = {"data": "d1", "flags": {"num_tokens": 8}}


def _make(directory, made_from=FROM, **options):
    with open_output(directory, "tokens", made_from, **options) as output:
        for name in ("a.txt", "deep/er/b.txt"):
            if not output.has(name):
                output.write(name, f"{name} of {made_from['data']}")
        output.finish()


def test_a_change_within_one_tick_of_coarse_dates_is_noticed(tmp_path, monkeypatch):
    """Clock and file system are simulated: dates of two seconds, as FAT has."""
    now, path = [1_000_000_000.3], tmp_path / "a.jpg"
    monkeypatch.setattr(fingerprints.time, "time", lambda: now[0])
    monkeypatch.setattr(
        fingerprints.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds)
    )

    def write(content):
        path.write_bytes(content)
        date = int(now[0]) // 2 * 2
        os.utime(path, (date, date))

    write(b"one")
    first = fingerprints.fingerprint_files([("a", path)])
    write(b"two")
    assert fingerprints.fingerprint_files([("a", path)]) != first
    # There is nothing to wait for where dates are old, fine, in the future or of no file at all.
    before = now[0] = now[0] + 10
    for seconds in (before - 2, before - 0.001, before + 3600):
        os.utime(path, (seconds, seconds))
        fingerprints.fingerprint_files([("a", path)])
    fingerprints.fingerprint_files([])
    assert now[0] == before


class Kill(BaseException):
    """As SIGKILL: nothing handles it."""


@pytest.mark.parametrize("where", ["replace", "unlink"])
def test_killed_between_the_journal_and_any_file_it_goes_on(where, tmp_path, monkeypatch):
    """Files that are new, written again, and removed; those that go on may not write all again."""
    real, left = getattr(os, where), [0]

    def call(path, *rest):
        left[0] -= 1
        if left[0] == 0:
            raise Kill
        return real(path, *rest)

    monkeypatch.setattr(os, where, call)
    for number in range(1, 9):
        out, left[0] = tmp_path / str(number), number
        with contextlib.suppress(Kill), open_output(out, "things", FROM) as output:
            for name in "ab":
                output.write(name, "1")
            output.remove("b")
            output.write("a", "2")
            output.write("extra", "1")
            output.finish()
        left[0] = 0
        with open_output(out, "things", FROM) as output:
            if not output.has("a"):
                output.write("a", "3")
            manifest = output.finish()
        assert manifest.check("a").read_text() in "123"
        there = {path.name for path in out.iterdir()}
        assert there == {*manifest.files, "manifest.json"}, number
        assert read_manifest(out, "things") == manifest


RACE = """
import os, sys, time
from pathlib import Path
from gpstoken_jax.runtime.manifest import OutputError
from gpstoken_jax.runtime.outputs import open_output
folder, me, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def meet(name):
    (folder / f"{name} {me}").touch()
    while not (folder / f"{name} {other}").exists():
        pass

for number in range(20):
    meet(f"ready {number}")
    try:
        made_from = {"by": me if number % 2 else "both"}
        place = folder / f"out {number}"
        output = open_output(place, "things", made_from, overwrite=number % 4 > 1)
        print("won", flush=True)
    except OutputError as error:
        output = None
        print(error, flush=True)
    meet(f"done {number}")
    if output:
        output.write(f"{me}.txt", me)
        output.finish()
"""


def test_of_two_that_claim_a_directory_at_once_one_wins(tmp_path):
    """With the same settings and with others, also if they may overwrite."""
    starts = [[sys.executable, "-c", RACE, tmp_path, *names] for names in ("ab", "ba")]
    racers = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True) for start in starts]
    said = [racer.communicate(timeout=120)[0].splitlines() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    for number, (first, second) in enumerate(zip(*said, strict=True)):
        assert (first == "won") != (second == "won"), (number, first, second)
        lost = second if first == "won" else first
        assert "another process is writing to" in lost or "was made from something else" in lost
        winner = "a" if first == "won" else "b"
        manifest = read_manifest(tmp_path / f"out {number}", "things")
        assert list(manifest.files) == [f"{winner}.txt"]
        assert manifest.made_from == {"by": winner if number % 2 else "both"}


def test_the_same_command_again_finds_it_complete(tmp_path):
    _make(tmp_path)
    there = sorted(tmp_path.rglob("*"))
    with open_output(tmp_path, "tokens", FROM) as output:
        assert output.complete
        assert output.has("a.txt")
    assert sorted(tmp_path.rglob("*")) == there


@pytest.mark.parametrize(
    "change, said",
    [({"data": "d2"}, "data was 'd1' and is now 'd2'"),
     ({"flags": {"num_tokens": 9}}, r"flags\.num_tokens was 8 and is now 9"),
     ({"more": 1}, "more was None and is now 1")],
)  # fmt: skip
def test_what_was_made_from_something_else_is_refused_or_made_again(tmp_path, change, said):
    _make(tmp_path)
    (tmp_path / "mine.jpg").write_text("mine")
    (tmp_path / "deep" / "mine.jpg").write_text("mine")
    with pytest.raises(OutputError, match=said):
        open_output(tmp_path, "tokens", FROM | change)
    assert (tmp_path / "a.txt").read_text() == "a.txt of d1"
    _make(tmp_path, FROM | change, overwrite=True)
    assert (tmp_path / "mine.jpg").read_text() == (tmp_path / "deep" / "mine.jpg").read_text()
    assert read_manifest(tmp_path, "tokens").made_from == FROM | change


def test_what_was_claimed_and_not_begun_is_free_for_other_settings(tmp_path):
    """As after a flag that only the work itself found wrong; but not while it goes on."""
    with open_output(tmp_path, "tokens", FROM), pytest.raises(OutputError, match="is writing"):
        open_output(tmp_path, "tokens", FROM | {"data": "d2"})
    _make(tmp_path, FROM | {"data": "d2"})
    assert read_manifest(tmp_path, "tokens").made_from["data"] == "d2"


def test_directories_of_someone_else_are_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"holds 'holiday\.jpg', which this program did not"):
            _make(tmp_path, overwrite=overwrite)
    assert os.listdir(tmp_path) == ["holiday.jpg"]
    with pytest.raises(OutputError, match="is a file"):
        _make(tmp_path / "holiday.jpg")
    with open_output(tmp_path / "layouts", "layouts", FROM):
        pass
    with pytest.raises(OutputError, match="holds layouts, not tokens"):
        _make(tmp_path / "layouts", overwrite=True)


def test_files_of_someone_else_in_ours_are_not_replaced(tmp_path):
    with open_output(tmp_path, "tokens", FROM) as output:
        (tmp_path / "a.txt").write_text("mine")
        with pytest.raises(OutputError, match=r"a\.txt is there and was not written by this"):
            output.write("a.txt", "ours")
        with pytest.raises(OutputError, match="was not written by this program"):
            output.remove("a.txt")
    assert (tmp_path / "a.txt").read_text() == "mine"


@pytest.mark.parametrize("link", [False, True])
def test_inputs_and_output_stay_apart(tmp_path, link):
    photos = tmp_path / "photos"
    photos.mkdir()
    given = photos
    if link:
        given = tmp_path / "link"
        given.symlink_to(photos)
    for output, said in (
        (photos, "is the input"),
        (photos / "out", "lies in the input"),
        (tmp_path, "holds the input"),
        (photos / ".." / "photos", "is the input"),
    ):
        with pytest.raises(OutputError, match=said):
            open_output(output, "tokens", FROM, inputs=[given])
    assert os.listdir(photos) == []


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a//b", "a/../../x", "", ".", "C:/x", "a\\b"])
def test_names_that_leave_the_directory(tmp_path, name):
    with open_output(tmp_path / "out", "tokens", FROM) as output, pytest.raises(OutputError):
        output.write(name, "x")
    assert os.listdir(tmp_path) == ["out"]


def test_symlinks_are_not_followed_out_of_the_directory(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    with open_output(tmp_path / "out", "tokens", FROM) as output:
        (tmp_path / "out" / "deep").symlink_to(outside)
        with pytest.raises(OutputError, match="leaves"):
            output.write("deep/x", "x")
    assert os.listdir(outside) == []


def test_a_killed_command_goes_on(tmp_path):
    program = f"""
import os, signal
from gpstoken_jax.runtime.outputs import open_output
output = open_output({str(tmp_path)!r}, "tokens", {FROM!r})
output.write("a.txt", "first")
with output.create("deep/er/b.txt") as file:
    file.write(b"half"); file.flush(); os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    with pytest.raises(OutputError, match="is not finished"):
        read_manifest(tmp_path, "tokens")
    with open_output(tmp_path, "tokens", FROM) as output:
        assert output.has("a.txt")
        assert not output.has("deep/er/b.txt")
    _make(tmp_path)
    assert (tmp_path / "a.txt").read_text() == "first"
    assert os.listdir(tmp_path / "deep" / "er") == ["b.txt"]


def test_two_processes_share_a_directory_and_two_of_a_number_do_not(tmp_path):
    with open_output(tmp_path, "tokens", FROM) as first:
        with pytest.raises(OutputError, match="another process is writing"):
            open_output(tmp_path, "tokens", FROM)
        with open_output(tmp_path, "tokens", FROM, process=1) as second:
            first.write("a", "1")
            second.write("b", "2")
        assert list(first.finish().files) == ["a", "b"]


def test_of_two_that_are_done_at_once_one_finishes_with_what_both_wrote(tmp_path):
    """The second waits for the first, which did not know its file yet."""
    with (
        open_output(tmp_path, "tokens", FROM) as first,
        open_output(tmp_path, "tokens", FROM, process=1) as second,
    ):
        first.write("a", "1")
        with first.only_one() as alone:
            assert alone
            second.write("b", "2")
            seen = []

            def wait():
                with second.only_one() as alone:
                    seen.append(alone and second.names())

            waiting = threading.Thread(target=wait)
            waiting.start()
            waiting.join(0.1)
            assert not seen and first.names() == ["a"]
        waiting.join()
        assert seen == [["a", "b"]]
        with second.only_one():
            second.finish()
        with first.only_one() as alone:
            assert not alone


def test_what_is_discarded_leaves_files_of_others_alone(tmp_path):
    for mine in (False, True):
        with open_output(tmp_path / "out", "tokens", FROM) as output:
            output.write("deep/a", "1")
            if mine:
                (tmp_path / "out/mine.txt").write_text("mine")
            with open_output(tmp_path / "out", "tokens", FROM, process=1) as other:
                other.write("b", "2")
            output.discard()
            with output.only_one() as alone:
                assert not alone
        assert [path.name for path in tmp_path.glob("out/*")] == ["mine.txt"] * mine


def test_what_is_made_again_in_a_finished_output_is_known_as_ours(tmp_path):
    _make(tmp_path)
    (tmp_path / "a.txt").unlink()
    with open_output(tmp_path, "tokens", FROM) as output:
        assert not output.has("a.txt")
        output.write("a.txt", "again")
    with pytest.raises(OutputError, match="is not finished"):
        read_manifest(tmp_path, "tokens")
    with open_output(tmp_path, "tokens", FROM) as output:
        assert output.has("a.txt")
        assert output.has("deep/er/b.txt")
        output.finish()
    assert read_manifest(tmp_path, "tokens").check("a.txt").read_text() == "again"


def test_fingerprints_change_with_names_dates_and_content(tmp_path):
    path = tmp_path / "a"
    path.write_text("1")
    os.utime(path, ns=(5, 5))
    dates = fingerprints.fingerprint_files([("a", path)])
    content = fingerprints.fingerprint_files([("a", path)], content=True)
    assert fingerprints.fingerprint_files([("b", path)]) != dates
    path.write_text("2")
    os.utime(path, ns=(5, 5))
    assert fingerprints.fingerprint_files([("a", path)]) == dates
    assert fingerprints.fingerprint_files([("a", path)], content=True) != content
    os.utime(path, ns=(6, 6))
    assert fingerprints.fingerprint_files([("a", path)]) != dates


def test_a_file_of_someone_else_can_be_adopted_only_after_it_is_written(tmp_path):
    with open_output(tmp_path, "tokens", FROM) as output:
        with pytest.raises(FileNotFoundError):
            output.adopt("x")
        files.write_file(tmp_path / "x", "x")
        output.adopt("x")
        output.remove("x")
        assert not output.has("x")
