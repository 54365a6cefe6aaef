"""Help and mistakes on the command line, as a user meets them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from absl import flags
from PIL import Image

from gpstoken_jax.__main__ import PROGRAMS
from gpstoken_jax.configs import fields
from gpstoken_jax.generation import samplers
from gpstoken_jax.programs import cli
from gpstoken_jax.programs.cli import flatten
from gpstoken_jax.runtime.outputs import open_output
from gpstoken_jax.tokens import STORAGE

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    path
    for path in (ROOT / "configs").glob("*.py")
    if path.stem not in ("__init__", "check", "fields")
)


def _run(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, **options
    )


def _config(path):
    module = {}
    exec(compile(path.read_text(), path, "exec"), module)
    return module["get_config"]()


def test_every_field_of_every_config_has_its_line_and_no_line_is_left_over():
    found = {name for path in CONFIGS for name, _ in flatten(_config(path))}
    assert not [name for name in sorted(found) if not fields.describe(name)]
    assert not [name for name in fields.names() if name not in found]


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_of_every_program(name):
    result = _run("-m", "gpstoken_jax", name, "--help")
    assert result.returncode == 0, result.stderr
    assert "--" in result.stdout
    assert not result.stderr
    if name == "train":
        assert "train.batch_size  int  (default: 16)\n      Images a step" in result.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_imports_no_jax(program):
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_module('gpstoken_jax.programs.' + sys.argv[0], run_name='__main__')\n"
        "finally: print('jax' in sys.modules)"
    )
    assert _run("-c", code, program).stdout.endswith("False\n")


def test_choices_that_help_lists_are_all_that_there_are():
    text = (ROOT / "gpstoken_jax/programs/generate.py").read_text()
    choices = {}
    exec("\n".join(re.findall(r"^(?:METHODS|LAST_STEPS) \+?= .*$", text, re.M)), choices)
    assert tuple(choices["METHODS"]) == samplers.METHODS
    assert tuple(choices["LAST_STEPS"]) == samplers.LAST_STEPS
    assert json.dumps(list(STORAGE)) in (ROOT / "gpstoken_jax/programs/encode.py").read_text()


def test_help_lists_the_fields_that_are_flags():
    """--data.folder and --eval.batch_size, and a config only where one is needed as required."""
    text = {name: _run("-m", "gpstoken_jax", name, "--help").stdout for name in ("eval", "convert")}
    for field in ("data.folder  str", "data.tars  str", "eval.batch_size  int"):
        assert f"\n  --{field}  (default: None)\n      " in text["eval"]
    assert "config object" not in text["eval"]
    assert "--config  file  (default: None)\n      Of the model" in text["convert"]
    assert "--config  file  (required)" in _run("train.py", "--help").stdout


def test_help_shows_the_values_of_the_config_that_is_named():
    text = _run("train.py", "--config=configs/tiny.py", "--help").stdout
    assert "model.image_size  int  (default: 64)" in text


@pytest.mark.parametrize("arguments", [[], ["train", "--help"]])
def test_help_that_nobody_reads_to_its_end(arguments):
    command = [sys.executable, "-m", "gpstoken_jax", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        process.stdout.close()  # as `| head -0`
        assert not process.stderr.read()
    assert process.returncode == 0


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"], ["-h"]])
def test_the_overview(arguments):
    result = _run("-m", "gpstoken_jax", *arguments)
    assert result.returncode == 0
    assert all(name in result.stdout for name in PROGRAMS)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["train.py", "--confg=3"], "there is no flag --confg; did you mean --config?"),
        (
            ["train.py", "--config=configs/tiny.py", "--config.train.stps=3"],
            "no field config.train.stps; did you mean steps",
        ),
        (
            ["train.py", "--config=configs/tiny.py", "--config.trian.steps=3"],
            "no field config.trian.steps; did you mean train",
        ),
        (
            ["train.py", "--config=configs/layout_sit.py", "--config.eval.every_steps=3"],
            "no field config.eval.every_steps",
        ),
        (["train.py", "--config=configs/tiny.py", "--config.seed.x=3"], "no field config.seed.x"),
        (["eval.py", "--checkpoint=x", "--eval.foo=4"], "no field eval.foo"),
        (["eval.py", "--checkpoint=x", "--data.foldr=4"], "no field data.foldr; did you .* folder"),
        (["train.py", "--config=configs/tiny.py", "--config.train.steps=ab"], "train.steps=ab"),
        (["train.py", "--config=configs/gone.py", "--workdir=x"], "gone.py"),
        (["train.py", "--config=configs/tiny.py"], "--workdir"),
        (["train.py", "--config=configs/tiny.py", "--workdir=x", "more"], "unexpected .*'more'"),
        (["-m", "gpstoken_jax", "encode"], "--"),
        (["-m", "gpstoken_jax", "enocde"], "there is no program 'enocde'"),
    ],
)
def test_mistakes_are_one_line(arguments, said):
    result = _run(*arguments)
    assert result.returncode == 2
    lines = result.stderr.strip().split("\n")
    assert lines[0].startswith("error: ")
    assert len(lines) == 1 or arguments[-1] == "enocde"
    pytest.importorskip("re").search(said, lines[0]) or pytest.fail(lines[0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--output is missing"),
        (["--output=a", "--count=x"], "flag --count=x: this is no whole number"),
        (["--output=a", "--count=1.5"], "flag --count=1.5: this is no whole number"),
        (["--output=a", "--count="], "flag --count=: this is no whole number"),
        (["--output=a", "--count='4'"], "flag --count='4': this is no whole number"),
        (["--output=a", "--share=x"], "flag --share=x: this is no number"),
        (["--output=a", "--all=x"], "flag --all=x: this is neither true nor false"),
        (["--output=a", "--count=0"], "flag --count=0: 0 is not a positive integer"),
    ],
)
def test_values_that_are_none_are_told_in_words(arguments, said):
    values = flags.FlagValues()
    flags.DEFINE_string("output", None, "", required=True, flag_values=values)
    flags.DEFINE_integer("count", None, "", lower_bound=1, flag_values=values)
    flags.DEFINE_float("share", None, "", flag_values=values)
    flags.DEFINE_bool("all", None, "", flag_values=values)
    with pytest.raises(flags.Error) as caught:
        values(["program", *arguments])
    assert cli._flag_mistake(caught.value) == f"{said}  (--help lists all flags)"


def test_no_home(tmp_path):
    """Neither HOME nor an entry of the user in the password file."""
    code = (
        "import os, pwd\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "from gpstoken_jax.programs import cli\n"
        "cli.use_compilation_cache()\n"
        "import jax; print(jax.config.jax_compilation_cache_dir)"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    result = _run("-c", code, env=env)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "None"


@pytest.mark.parametrize(
    ("argument", "expanded"),
    [
        ("--workdir=~/a/b", "--workdir=/home/me/a/b"),
        ("--config.data.folder=~/a ~/b", "--config.data.folder=/home/me/a ~/b"),
        ("--datasets=a=~/a,b=~/b,~/c", "--datasets=a=/home/me/a,b=/home/me/b,/home/me/c"),
        ("-config=~/c.py:smoke", "-config=/home/me/c.py:smoke"),
        ("--classes=~,a~/b", "--classes=~,a~/b"),
        ("~/rest", "~/rest"),
    ],
)
def test_the_home_directory_in_any_flag(argument, expanded, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert cli.expand_home(argument) == expanded


def test_without_a_home_directory_it_is_asked_for(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(ValueError, match=r"--workdir=~/a: the system knows no home directory"):
        cli.expand_home("--workdir=~/a")


@pytest.mark.parametrize("arguments", [["--output={}"], ["--workdir={}/run"], ["--output", "{}"]])
def test_temporary_files_lie_beside_the_results_where_there_is_no_other_place(
    arguments, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [])
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", "")
    cli.find_temporary_directory(["program", *(one.format(tmp_path) for one in arguments)])
    assert Path(tempfile.gettempdir()).parent == tmp_path
    open_output(tmp_path, "things", {}).close()  # nothing of anyone else's


def test_in_a_container(tmp_path):
    """A read-only root, a user without a name or a home, and one directory to write to."""
    if not shutil.which("unshare"):
        pytest.skip("there is no unshare to make a container with")
    (tmp_path / "in").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "in" / "a.png")
    (tmp_path / "out").mkdir()
    script = (
        "mount -t tmpfs tmpfs out || exit 77\n"
        "while read -r _ place _; do case $place in /proc*|/sys*|/dev*) ;; *) "
        "mount -o remount,ro,bind $place;; esac; done </proc/mounts\n"
        "mount -o remount,rw out; touch x 2>/dev/null && exit 77\n"
        "env -i unshare --user --map-user=54321 "
        f"{sys.executable} -m gpstoken_jax prepare_data --folder=in --output=out/data && ls -A out"
    )
    (tmp_path / "script").write_text(script)
    container = ["unshare", "--user", "--mount", "--map-root-user", "sh", "script"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(container, cwd=tmp_path, env=env, capture_output=True, text=True)
    if result.returncode == 77 or "unshare" in result.stderr:
        pytest.skip(f"this system lets nobody make one: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("data\n") and "Traceback" not in result.stderr
