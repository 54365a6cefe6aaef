"""Facts of a disk before anything is written to it."""

import os
import shutil

import pytest

from gpstoken_jax.runtime.storage import StorageError, check_free_space, check_writable


def test_a_disk_that_is_too_small_is_named_with_both_figures(tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(100 * 2**20, 97 * 2**20, 3 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    new = tmp_path / "not" / "there"
    check_free_space(new, 3 * 2**20, "they take", "go")
    with pytest.raises(
        StorageError, match=f"they take 4 MiB and only 3 MiB are free in {new}: .*go"
    ):
        check_free_space(new, 4 * 2**20, "they take", "go")
    assert not new.exists()


def test_a_place_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    check_writable(tmp_path / "not" / "there")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=f"{tmp_path} cannot be written to"):
        check_writable(tmp_path / "not" / "there")
