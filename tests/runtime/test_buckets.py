"""Places in buckets, with emulators of S3 and Google Cloud Storage."""

import fsspec
import pytest

from gpstoken_jax.runtime import buckets
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


def test_copies_have_content_and_dates_and_are_made_once(bucket):
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
    assert buckets.as_given(f"see {local}/a") == f"see {url}/a"


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
