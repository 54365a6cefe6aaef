"""Directories in buckets: a kill at any moment, and leases."""

import datetime
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from gpstoken_jax.runtime import buckets, checkpoint, mirror
from gpstoken_jax.runtime import lease as leases
from gpstoken_jax.runtime.lease import Lease, LeaseError
from gpstoken_jax.runtime.manifest import OutputError, read_manifest
from gpstoken_jax.runtime.mirror import Mirror
from gpstoken_jax.runtime.outputs import open_output
from gpstoken_jax.runtime.run_directory import open_place_of_run, whole_checkpoints
from tests import emulators

URL = "s3://bucket/place"


class Killed(BaseException):
    pass


class Objects:
    """Objects in memory with fsspec's methods; after so many changes the process is killed."""

    def __init__(self):
        self.there, self.left = {}, None

    def _change(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed

    def find(self, url, detail):
        prefix = url.partition("://")[2]
        return {
            name: {"size": len(data), "LastModified": written, "type": "file"}
            for name, (data, written) in self.there.items()
            if name == prefix or name.startswith(f"{prefix}/")
        }

    def pipe_file(self, url, data, mode="overwrite"):
        self._change()
        name = url.partition("://")[2]
        if mode == "create" and name in self.there:
            raise FileExistsError(url)
        self.there[name] = data, datetime.datetime.now(datetime.UTC)

    def put_file(self, path, url):
        self.pipe_file(url, Path(path).read_bytes())

    def cat_file(self, url):
        try:
            return self.there[url.partition("://")[2]][0]
        except KeyError as error:
            raise FileNotFoundError(url) from error

    def get_file(self, url, path):
        Path(path).write_bytes(self.cat_file(url))

    def rm_file(self, url):
        self._change()
        self.there.pop(url.partition("://")[2], None)

    def contents(self, prefix="bucket/place/"):
        return {
            name.removeprefix(prefix): data
            for name, (data, _) in self.there.items()
            if name.startswith(prefix) and "/.lease/" not in name
        }


@pytest.fixture
def objects(monkeypatch):
    """A bucket in memory, in which one change follows the other."""
    objects = Objects()
    monkeypatch.setattr(buckets, "file_system", lambda url: objects)
    monkeypatch.setattr(buckets, "each", lambda function, items: [*map(function, sorted(items))])
    monkeypatch.setattr(buckets, "_urls", {})
    monkeypatch.setattr(buckets, "_copies", {})
    monkeypatch.setattr(mirror, "PAUSE", 1e6)
    return objects


def make(names, overwrite=False, made_from=0):
    """A program that writes files and goes on where it was killed."""
    with open_output(URL, "things", {"of": made_from}, overwrite=overwrite) as output:
        for name in names:
            if not output.has(name):
                output.write(name, f"{made_from} {name}", durable=False)
                output.share()
        if output.complete is False:
            output.finish({"count": len(names)})


def dead(objects):
    """The leases of killed processes have run out."""
    for name in [name for name in objects.there if "/.lease/" in name]:
        del objects.there[name]


def kill_everywhere(objects, before, program):
    """Kills a program after every change of the bucket, and lets it go on."""
    before()
    first = dict(objects.there)
    program()
    wanted, moments = objects.contents(), 0
    while True:
        objects.there, objects.left = dict(first), moments
        try:
            program()
        except Killed:
            moments += 1
        else:
            break
        objects.left = None
        dead(objects)
        program()
        assert objects.contents() == wanted, f"killed after {moments} changes"
        dead(objects)
    assert moments > 10


def test_an_output_goes_on_wherever_it_was_killed(objects, monkeypatch):
    # A kill stops everything: nothing is tidied up after it.
    monkeypatch.setattr(Mirror, "close", _close_alive(objects))
    kill_everywhere(objects, lambda: None, lambda: make(["a", "b/c", "d"]))
    assert set(objects.contents()) == {"a", "b/c", "d", "manifest.json"}


def test_so_does_one_that_replaces_another(objects, monkeypatch):
    monkeypatch.setattr(Mirror, "close", _close_alive(objects))
    kill_everywhere(
        objects,
        lambda: make(["a", "old/x", "old/y"]),
        lambda: make(["a", "b"], overwrite=True, made_from=1),
    )
    assert set(objects.contents()) == {"a", "b", "manifest.json"}


def _close_alive(objects):
    close = Mirror.close

    def close_alive(self):
        if objects.left is None or objects.left >= 0:
            close(self)

    return close_alive


def test_at_no_moment_a_manifest_says_that_it_is_complete_and_is_not(objects):
    changes, change = [], objects._change

    def look():
        held = objects.contents()
        if "manifest.json" in held and (value := json.loads(held["manifest.json"]))["complete"]:
            changes.append(
                all(len(held[name]) == size for name, (size, _) in value["files"].items())
            )
        change()

    objects._change = look
    make(["a", "b", "c"])
    make(["a", "b", "c"])
    assert changes and all(changes)


def test_several_processes_share_an_output(objects):
    first, other = (open_output(URL, "things", {}, process=p) for p in (0, 1))
    first.write("a", "one")
    other.write("b", "two")
    other.close()
    manifest = first.finish()
    assert set(manifest.files) == {"a", "b"} and objects.contents()["b"] == b"two"
    assert set(objects.contents()) == {"a", "b", "manifest.json"}
    local = buckets.fetch(URL)
    assert set(read_manifest(local, "things").files) == {"a", "b"}


def test_of_two_that_are_done_at_once_one_finishes_with_what_both_wrote(objects, monkeypatch):
    """On two machines: the second waits for the first, which did not know its file yet."""
    monkeypatch.setattr(mirror, "_WAIT", 0.01)
    first, second = (open_output(URL, "things", {}, process=p) for p in (0, 1))
    first.write("a", "1")
    first.share()
    seen = []

    def wait():
        with second.only_one() as alone:
            seen.append(alone and second.names())
            second.finish()

    with first.only_one() as alone:
        assert alone
        second.write("b", "2")
        second.share()
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.1)
        assert not seen and first.names() == ["a"]
    waiting.join()
    assert seen == [["a", "b"]]
    with first.only_one() as alone:
        assert not alone
    first.close()
    assert set(objects.contents()) == {"a", "b", "manifest.json"}
    assert not [name for name in objects.there if "/.lease/" in name]


def test_what_others_wrote_is_left_alone(objects):
    objects.pipe_file(f"{URL}/photo.jpg", b"mine")
    with pytest.raises(OutputError, match=rf"{URL} holds 'photo.jpg', which this program did not"):
        make(["a"])
    objects.rm_file(f"{URL}/photo.jpg")
    make(["a"])
    with pytest.raises(OutputError, match="was made from something else: of was 0 and is now 1"):
        make(["a"], made_from=1)
    objects.pipe_file(URL, b"a file")
    with pytest.raises(OSError, match=f"{URL} is an object, not a directory"):
        make(["a"])


@pytest.mark.parametrize("late", ["checkpoints/3/params/y", "best/checkpoints/3/manifest.json"])
def test_parts_of_a_checkpoint_that_a_killed_training_has_left_are_deleted(objects, late):
    """Also those that were on their way when it was killed; nothing else is."""
    stay = {"config.json", "notes.txt", "tensorboard/events", "checkpoints/notes.txt"}
    stay |= {
        "checkpoints/2/params/x",
        "checkpoints/2/manifest.json",
        "checkpoints/3.damaged/params",
    }
    stay |= {"checkpoints/1/params/x", "checkpoints/1/commit_success.txt", "best/checkpoints.txt"}
    for name in stay | {"checkpoints/3/params/x", "best/checkpoints/3/params/x"}:
        objects.pipe_file(f"{URL}/{name}", b"{}")
    with open_place_of_run(URL) as place:
        assert set(checkpoint.steps(place.directory / "checkpoints")) == {1, 2}
        objects.pipe_file(f"{URL}/{late}", b"{}")
    assert objects.contents().keys() == stay


def test_of_one_version_or_another_a_whole_checkpoint_is_known_by_what_is_written_last():
    names = [f"checkpoints/{name}" for name in ("4/manifest.json", "5/params/x", "3.damaged/x")]
    assert whole_checkpoints(names) == {4}
    names += ["checkpoints/2/params/commit_success.txt", "checkpoints/1/commit_success.txt"]
    assert whole_checkpoints(names) == {1, 4}


def test_what_cannot_be_copied_is_kept_and_named(objects, monkeypatch):
    output = open_output(URL, "things", {})
    output.write("a", "precious")

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(objects, "pipe_file", fail)
    with pytest.raises(OSError, match=rf"{URL}.*no network; what could not.*is in (\S+)$") as error:
        output.close()
    kept = Path(str(error.value).split()[-1])
    assert (kept / "a").read_text() == "precious"
    shutil.rmtree(kept.parent)


def test_a_bucket_that_stays_away_ends_the_work(objects, monkeypatch):
    monkeypatch.setattr(mirror, "PAUSE", 0.01)
    monkeypatch.setattr(mirror, "PATIENCE", 0.05)
    output = open_output(URL, "things", {})
    pipe_file = objects.pipe_file

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(objects, "pipe_file", fail)
    output.write("a", "1", durable=False)
    with pytest.raises(OSError, match="no network"):
        for number in range(1000):
            time.sleep(0.01)
            output.write(f"b{number}", "2", durable=False)
    objects.pipe_file = pipe_file  # it is back
    output.close()
    assert objects.contents()["a"] == b"1"


def test_a_network_that_hangs_ends_the_work_when_the_lease_is_over(objects, monkeypatch):
    monkeypatch.setattr(mirror, "PAUSE", 0.01)
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)
    output, back = open_output(URL, "things", {}), threading.Event()
    monkeypatch.setattr(objects, "pipe_file", lambda *_, **__: back.wait())
    with pytest.raises(LeaseError, match=f"the lease on {URL} has run out"):
        for number in range(1000):
            time.sleep(0.01)
            output.write(f"b{number}", "2", durable=False)
    with pytest.raises(LeaseError):
        output.close()  # and does not wait
    back.set()


def test_scratch_of_killed_processes_is_swept_away(monkeypatch, tmp_path):
    monkeypatch.setattr(buckets.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(buckets, "_YOUNG", -1.0)
    buckets._scratch.cache_clear()
    left = tmp_path / "gpstoken-scratch-left"
    left.mkdir()
    mine = buckets._scratch()
    buckets._scratch.cache_clear()
    assert mine.is_dir() and not left.exists()
    assert buckets._scratch() != mine and mine.is_dir()  # it is locked
    buckets._scratch.cache_clear()


# ---- Leases, as S3 and Google have them ---------------------------------------------------------


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request):
    with emulators.bucket(request.param) as url:
        yield url


@pytest.fixture
def place(bucket, request):
    return f"{bucket}/{request.node.originalname}"


def test_one_process_has_a_place_and_the_next_is_told_who(place):
    lease = Lease(place, 0)
    with pytest.raises(
        LeaseError, match=rf"{place} is in use by process {os.getpid()} on .*:\d\d UTC"
    ):
        Lease(place, 0)
    Lease(place, 1).release()  # another part of the work
    lease.check()
    lease.release()
    Lease(place, 0).release()
    assert not buckets.list_objects(place)


def test_a_lease_that_has_run_out_is_taken_and_its_owner_stops(objects, monkeypatch):
    place = URL
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.5)
    monkeypatch.setattr(leases.Lease, "_keep", lambda self: None)  # the owner hangs
    hanging = Lease(place, 0)
    with pytest.raises(LeaseError, match="whose lease ends at"):
        Lease(place, 0)
    time.sleep(0.6)
    monkeypatch.setattr(leases, "LEASE_SECONDS", 60.0)
    owner = Lease(place, 0)
    owner.check()
    with pytest.raises(LeaseError, match="has run out"):
        hanging.check()
    hanging.release()  # not the new owner's
    with pytest.raises(LeaseError, match="is in use"):
        Lease(place, 0)


def test_an_owner_that_goes_on_keeps_its_lease(objects, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 2.0)
    lease = Lease(URL, 0)
    first = objects.find(URL, detail=True)
    while objects.find(URL, detail=True) == first:
        time.sleep(0.05)
    lease.check()
    with pytest.raises(LeaseError, match="is in use"):
        Lease(URL, 0)
    lease.release()


def test_of_two_that_begin_at_once_one_has_it(place, monkeypatch):
    other = Lease(place, 0)
    monkeypatch.setattr(leases.Lease, "_there", lambda self: {})  # listed before the other wrote
    with pytest.raises(LeaseError, match="has begun to write"):
        Lease(place, 0)
    monkeypatch.undo()
    other.release()


def test_an_owner_of_this_machine_that_is_dead_has_no_lease(place, monkeypatch):
    monkeypatch.setattr(leases.os, "getpid", lambda: 2**22 + 1)  # beyond any process
    monkeypatch.setattr(leases.Lease, "_keep", lambda self: None)
    Lease(place, 0)
    monkeypatch.setattr(leases, "_machine", lambda: "another")
    with pytest.raises(LeaseError, match="is in use"):
        Lease(place, 0)
    monkeypatch.undo()
    Lease(place, 0).release()


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b'{"seconds": "long"}', b"\xff"])
def test_a_lease_that_cannot_be_read_is_told_in_one_line(content, objects):
    objects.pipe_file(f"{URL}/.lease/00000/notes.txt", b"someone's")  # no lease, and no harm
    Lease(URL, 0).release()
    objects.pipe_file(f"{URL}/.lease/00000/000000001", content)
    with pytest.raises(LeaseError, match="000000001 is no lease that can be read: take it away"):
        Lease(URL, 0)
