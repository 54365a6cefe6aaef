"""Repositories of the hub, with a stand-in for it: variants, the cache, no network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.hub import is_repository
from gpstoken_jax.weights.sources import find_source
from tests.weights.fake_hub import COMMIT, FakeHub

pytest.importorskip("huggingface_hub", reason="the hub's library is not installed")
ROOT = Path(__file__).parents[2]
REPOSITORY = "xtudbxk/GPSToken"
NOWHERE = "http://127.0.0.1:9"  # nobody listens

_DOWNLOAD = """
import json, sys
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.hub import download

def answer(source, options):
    try:
        folder, subfolder = download(source, **options)
        return [str(folder), subfolder, (folder / subfolder / "w.safetensors").read_text()]
    except WeightsError as error:
        return str(error)

print(json.dumps([answer(*call) for call in json.loads(sys.argv[1])]))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    for variant in ("GPSToken-S64", "GPSToken-M128", "GPSToken-L256"):
        (folder / variant).mkdir()
        (folder / variant / "w.safetensors").write_text(variant)
        (folder / variant / "notes.txt").write_text("not wanted")
    (folder / "README.md").write_text("not wanted")
    with FakeHub(REPOSITORY, folder) as hub:
        yield hub


@pytest.fixture(scope="module")
def ask(hub, tmp_path_factory):
    """Asks for weights in a process of its own: the library reads its settings when imported."""
    home = tmp_path_factory.mktemp("home")

    def ask(*calls, **env):
        hub.asked.clear()
        result = subprocess.run(
            [sys.executable, "-c", _DOWNLOAD, json.dumps(calls)],
            env={**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": hub.url, **env},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(result.stdout)

    return ask


def test_variants_are_chosen_downloaded_alone_and_kept(hub, ask):
    (nothing,) = ask([REPOSITORY, {"subfolder": "M128"}], HF_HUB_OFFLINE="1")
    assert nothing.startswith(f"there is no file or folder {REPOSITORY}, and the hub cannot be")
    assert "give a local path" in nothing and not hub.asked

    small, whole, by_name, by_file, several, missing, gone, revision = ask(
        [REPOSITORY, {"subfolder": "m128"}],
        [REPOSITORY, {"subfolder": "GPSToken-M128"}],
        [f"{REPOSITORY}/GPSToken-S64", {}],
        [f"{REPOSITORY}/GPSToken-S64/w.safetensors", {}],
        [REPOSITORY, {}],
        [REPOSITORY, {"subfolder": "X9"}],
        ["nobody/nothing", {}],
        [REPOSITORY, {"revision": "v2"}],
    )
    assert small == whole
    folder, subfolder, content = small
    assert Path(folder).name == COMMIT and subfolder == content == "GPSToken-M128"
    assert by_file == by_name == [folder, "GPSToken-S64", "GPSToken-S64"]
    names = "(OWNER/NAME/SUBFOLDER): GPSToken-L256, GPSToken-M128, GPSToken-S64"
    assert several == f"{REPOSITORY} has several variants, give one as the sub-folder {names}"
    assert missing == f"{REPOSITORY} has no variant 'X9', give one as the sub-folder {names}"
    assert "no repository nobody/nothing on the hub" in gone
    assert "v2" in revision and "\n" not in revision
    assert {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path} == {
        "w.safetensors"
    }
    assert not any("L256" in path for path in hub.asked if "/resolve/" in path)

    for env in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": NOWHERE}):
        again, other = ask(
            [REPOSITORY, {"subfolder": "M128"}], [REPOSITORY, {"subfolder": "L256"}], **env
        )
        assert again == small and not hub.asked
        assert "the cache of xtudbxk/GPSToken has no variant 'L256'" in other


def test_names_of_repositories():
    good = (REPOSITORY, f"{REPOSITORY}/GPSToken-S64", "a/b.c/d_e/f")
    assert all(map(is_repository, good))
    assert not any(map(is_repository, ("a", "/a/b", "./a/b", "../a", "a//b", "a/b/", "a b/c", "")))


def test_what_is_local_has_no_revision(tmp_path):
    for source in (tmp_path, "photos-small"):
        with pytest.raises(WeightsError, match="revision='v2'"):
            find_source(source, revision="v2")
