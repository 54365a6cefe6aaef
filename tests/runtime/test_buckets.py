"""Places in buckets, with emulators of S3 and Google Cloud Storage."""

import fsspec
import pytest

from gpstoken_jax.runtime import buckets
from gpstoken_jax.runtime.outputs import open_output
from tests import emulators


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request):
    with emulators.bucket(request.param) as url:
        yield url


def put(url, **objects):
    for name, data in objects.items():
        fsspec.filesystem(url.partition(":")[0]).pipe_file(f"{url}/{name}", data)


def test_a_local_path_stays_where_it_is(tmp_path):
    assert buckets.fetch(tmp_path / "a") == tmp_path / "a"


def test_copies_have_content_and_dates_and_are_made_again_for_what_has_changed(bucket):
    url = f"{bucket}/fetched"
    put(url, a=b"one", **{"sub/b.txt": b"", "sub/c": bytes(100)})
    local = buckets.fetch(f"{url}/")
    assert {str(p.relative_to(local)) for p in local.rglob("*") if p.is_file()} == {
        "a", "sub/b.txt", "sub/c",
    }  # fmt: skip
    assert (local / "a").read_bytes() == b"one"
    listed = buckets.list_objects(url)
    for name, found in listed.items():
        assert (local / name).stat().st_mtime == found.written.timestamp()
        assert (local / name).stat().st_size == found.bytes
    assert buckets.fetch(url) == local
    assert buckets.fetch(f"{url}/a").read_bytes() == b"one"  # one object
    put(url, a=b"three")
    assert (buckets.fetch(url) / "a").read_bytes() == b"three"
    assert buckets.as_given(f"see {local}/a") == f"see {url}/a"


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"\n--==0==--", b""])
def test_every_byte_arrives(bucket, end):
    if bucket.startswith("gs") and end.startswith(b"\n--"):
        pytest.skip("gcsfs puts this line between the parts of an upload, and an object ends there")
    buckets.write_object(f"{bucket}/bytes", bytes(range(256)) + end)
    assert buckets.fetch(f"{bucket}/bytes").read_bytes() == bytes(range(256)) + end


def test_nothing_there_and_names_that_leave_the_place(bucket):
    with pytest.raises(FileNotFoundError, match=f"there is nothing at {bucket}/none"):
        buckets.fetch(f"{bucket}/none")
    put(f"{bucket}/evil", **{"a//b": b"x"})
    with pytest.raises(buckets.StorageError, match="evil/a//b can be no file"):
        buckets.fetch(f"{bucket}/evil")


def test_a_bucket_that_is_not_there_is_named(bucket):
    missing = bucket.replace("bucket", "another-bucket") + "/place"
    with pytest.raises(OSError, match=f"{missing}"):
        buckets.fetch(missing)


def test_a_copy_needs_room_and_a_large_one_shows_its_progress(
    bucket, monkeypatch, capsys, tmp_path
):
    put(f"{bucket}/large", **dict.fromkeys("abc", bytes(700_000)))
    listed = buckets.list_objects(f"{bucket}/large")
    monkeypatch.setattr(buckets, "_LARGE", 10**6)
    buckets.download(f"{bucket}/large", tmp_path, listed)
    assert f"copying {bucket}/large: 2/2 MB  " in capsys.readouterr().out
    huge = {name: found._replace(bytes=10**18) for name, found in listed.items()}
    with pytest.raises(buckets.StorageError, match=rf"{bucket}/large takes .*: free .*TMPDIR"):
        buckets.download(f"{bucket}/large", tmp_path, huge)


def test_an_output_is_written_and_opened_again(bucket):
    for expected in (False, True):
        with open_output(f"{bucket}/output", "things", {"of": 1}) as output:
            assert output.has("sub/a") == output.complete == expected
            if not expected:
                output.write("sub/a", "1")
                output.finish()
    assert emulators.contents(f"{bucket}/output").keys() == {"sub/a", "manifest.json"}
