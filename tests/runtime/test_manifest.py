"""Manifests and journals: they say what was written, and damage to either is noticed."""

import os

import pytest

from gpstoken_jax.runtime.files import DamagedFileError
from gpstoken_jax.runtime.manifest import MANIFEST, read_manifest
from gpstoken_jax.runtime.outputs import open_output

FROM = {"data": "d1", "flags": {"num_tokens": 8}}


def _make(directory):
    with open_output(directory, "tokens", FROM) as output:
        for name in ("a.txt", "deep/er/b.txt"):
            output.write(name, f"{name} of d1")
        return output.finish({"count": 2})


def test_a_finished_output_says_what_it_is(tmp_path):
    _make(tmp_path / "out")
    manifest = read_manifest(tmp_path / "out", "tokens")
    assert manifest.complete
    assert manifest.made_from == FROM
    assert manifest.facts == {"count": 2}
    assert list(manifest.files) == ["a.txt", "deep/er/b.txt"]
    assert manifest.check("deep/er/b.txt").read_text() == "deep/er/b.txt of d1"
    assert sorted(os.listdir(tmp_path / "out")) == ["a.txt", "deep", "manifest.json"]


def test_a_torn_journal_line_is_forgotten_and_a_damaged_one_named(tmp_path):
    with open_output(tmp_path, "tokens", FROM) as output:
        output.write("a.txt", "a")
    journal = tmp_path / "journal-00000.txt"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[:20])
    with open_output(tmp_path, "tokens", FROM) as output:
        assert output.has("a.txt")
        output.write("b.txt", "b")
    with open_output(tmp_path, "tokens", FROM) as output:
        assert output.has("b.txt")
    journal.write_bytes(whole.replace(b"a.txt", b"c.txt"))
    with pytest.raises(DamagedFileError, match=r"journal-00000\.txt is damaged"):
        open_output(tmp_path, "tokens", FROM)


def test_every_flipped_bit_of_an_output_is_noticed(tmp_path):
    manifest = _make(tmp_path)
    for name in [*manifest.files, MANIFEST]:
        path = tmp_path / name
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), 7):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(DamagedFileError, match=path.name):
                read_manifest(tmp_path, "tokens").check(name)
        path.write_bytes(whole)
