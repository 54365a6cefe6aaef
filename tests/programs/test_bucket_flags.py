"""Places with a scheme: every flag of every program takes them or refuses them at the start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpstoken_jax.__main__ import PROGRAMS
from gpstoken_jax.configs import common, layout_common, sit_common
from gpstoken_jax.programs import cli
from gpstoken_jax.runtime import buckets

ROOT = Path(__file__).parents[2]
# The flags of each program whose place may be in a bucket; all others must refuse it.
DATA = {"data.folder", "data.list", "data.tars", "data.parquet", "data.tfds_dir"}
TAKE = {
    "train": {*DATA, "init_from", "workdir"},
    "eval": {*DATA, "checkpoint", "output"},
    "encode": {*DATA, "checkpoint", "output"},
    "decode": {"checkpoint", "tokens", "output"},
    "reconstruct": {*DATA, "checkpoint", "images", "output"},
    "generate": {"generator", "tokenizer", "layouts", "output"},
    "view": {"checkpoint", "generator", "layouts"},
    "convert": {"input", "output"},
    "export": {"checkpoint", "output"},
    "prepare_data": {"folder", "tars", "parquet", "output"},
    "report": {"against", "output"},  # and the run, which is no flag
    "prepare_layouts": {*DATA, "tokens", "output"},
}
FIELDS = {*DATA, "data.tokens", "data.val_tokens", "data.layouts", "data.val_layouts"}
FIELDS |= {"init.source", "tokenizer"}
URLS = ["s3://bucket/place", "gs://bucket/place", "s3:/bucket/place", "name=s3://bucket/place"]
STRANGE = ["file:///tmp/place", "https://host/place", "hdfs://host/place", "S3://bucket/place"]
STRANGE += ["s3://", "s3://bucket", "gs:///place", "s3://bucket//place", "az://bucket/place"]
_PROBE = """
import importlib, json, os, sys
import numpy, PIL.Image
from absl import flags
from gpstoken_jax.programs import cli, image_flags
programs, urls = json.loads(sys.argv[1]), json.loads(sys.argv[2])
def tell(told, name, url):
    try: cli._check_places([url] if name == "" else [])
    except ValueError as error: told[name + " " + url] = str(error)
    else: told[name + " " + url] = ""
def probe(program):
    sys.argv = [program, "--help"]  # without JAX
    importlib.import_module("gpstoken_jax.programs." + program)
    told = {}
    for flag in cli._own_flags():
        if flag.flag_type() in ("string", "multi string", "comma separated list of strings"):
            for url in urls:
                was, flag.value = flag.value, url if flag.flag_type() == "string" else ["a", url]
                tell(told, flag.name, url)
                flag.value = was
    data = flags.FLAGS["data"].value if "data" in flags.FLAGS else ()
    for name in data:
        for url in urls:
            data[name] = url
            tell(told, "data." + name, url)
            data[name] = None
    for url in urls: tell(told, "", url)
    return told
for program in programs:  # flags of two programs clash in one process
    if not os.fork():
        print(json.dumps([program, probe(program)]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def told():
    """Answers of each program to each flag and each place, "" where it takes it."""
    arguments = [json.dumps([*PROGRAMS]), json.dumps(URLS + STRANGE)]
    command = [sys.executable, "-c", _PROBE, *arguments]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    return dict(map(json.loads, lines.splitlines()))


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_flag_takes_a_place_in_a_bucket_or_says_that_it_does_not(told, program):
    takes = TAKE.get(program, set())
    assert {*TAKE} <= {*PROGRAMS}
    assert told[program]
    for case, message in told[program].items():
        name, _, url = case.partition(" ")
        taken = url in URLS and name in takes
        assert (message == "") == taken, (case, message)
        assert "\n" not in message
        if url in URLS and not taken:
            assert (f"--{name}" if name else "an argument") in message
            assert "local path" in message
    assert takes <= {case.partition(" ")[0] for case in told[program]}


@pytest.mark.parametrize("make", [common, sit_common, layout_common], ids=lambda m: m.__name__)
@pytest.mark.parametrize("url", [URLS[0], STRANGE[0]])
def test_every_field_of_a_config_does_so_too(monkeypatch, make, url):
    config = make.get_config()
    for name, value in [*cli.flatten(config)]:
        if isinstance(value, str | None):
            with config.unlocked():
                config.update_from_flattened_dict({name: url})
            monkeypatch.setattr(cli, "FLAGS", {"config": type("Flag", (), {"value": config})})
            monkeypatch.setattr(cli, "_own_flags", list)
            if name in FIELDS and url in URLS:
                cli._check_places([])
            else:
                with pytest.raises(ValueError, match=f"config.{name}|there is no file://"):
                    cli._check_places([])
            config.update_from_flattened_dict({name: value})


@pytest.mark.parametrize("url", STRANGE)
def test_a_strange_place_is_named_with_what_there_is(url):
    with pytest.raises(ValueError, match=f"^{url}.*(gs://BUCKET/NAME|must be)"):
        buckets.check_url(url)


@pytest.mark.parametrize(
    ("scheme", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs")]
)
def test_a_missing_package_is_named_with_the_command(monkeypatch, scheme, package, extra):
    monkeypatch.setattr(buckets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=rf"needs {package}: pip install 'gpstoken_jax\[{extra}\]'"
    ):
        buckets.check_url(f"{scheme}://bucket/place")


def test_what_has_no_scheme_is_a_path():
    for path in (
        "runs/a",
        "/tmp/a",
        "C:/a",
        "C:\\a",
        "owner/name",
        "~/a",
        "a:b",
        "10:30/x.png",
        ".",
    ):
        assert not buckets.is_url(path), path
    assert buckets.is_url(Path("s3://bucket/place"))
    assert buckets.check_url(Path("s3://bucket/place/")) == "s3://bucket/place"


def test_a_refused_place_is_one_line_and_leaves_nothing(tmp_path):
    result = subprocess.run(
        [sys.executable, ROOT / "train.py", f"--config={ROOT}/configs/tiny.py", "--workdir=ftp://x/y"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "ftp://x/y" in result.stderr
    assert not os.listdir(tmp_path)
