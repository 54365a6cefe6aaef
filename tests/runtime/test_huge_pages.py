"""A program's memory comes in huge pages, where the kernel gives them on request."""

import json
import os
import subprocess
import sys

import pytest

from gpstoken_jax.runtime import huge_pages

# What the program sees of its start, and its huge pages once it holds 64 MB.
PROGRAM = """
import json, os, re, sys
from pathlib import Path
from gpstoken_jax.runtime.huge_pages import use_huge_pages
use_huge_pages()
held = b"x" * 2**26
pages = re.search(r"AnonHugePages: *([0-9]+)", Path("/proc/self/smaps_rollup").read_text())
print(json.dumps([os.getpid(), sys.argv[1:], sys.flags.utf8_mode, os.environ.get("GLIBC_TUNABLES"),
                  int(pages[1])]))
"""
on_request = pytest.mark.skipif(
    not huge_pages._on_request(), reason="this system gives huge pages to all, or to none"
)


def _start(tmp_path, env, tunables, before=""):
    script = tmp_path / "a program.py"
    script.write_text(before + PROGRAM)
    env = {name: value for name, value in env.items() if name != "GLIBC_TUNABLES"}
    env |= {} if tunables is None else {"GLIBC_TUNABLES": tunables}
    command = [sys.executable, "-X", "utf8", str(script), "--a=b c", "", "*"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    number, *rest = json.loads(process.communicate()[0])
    assert process.returncode == 0
    assert number == process.pid and rest[:2] == [["--a=b c", "", "*"], 1]
    return rest[2:]


@on_request
@pytest.mark.parametrize("before", [None, "", "glibc.malloc.check=0"])
def test_it_starts_again_as_it_was_called(tmp_path, env, before):
    tunables, pages = _start(tmp_path, env, before)
    assert tunables.endswith("glibc.malloc.hugetlb=1")
    assert tunables.startswith(before or "glibc")
    assert pages > 2**15  # kB: of 64 MB more than half


@on_request
def test_a_users_own_setting_is_left_alone(tmp_path, env):
    tunables, pages = _start(tmp_path, env, "glibc.malloc.hugetlb=0")
    assert tunables == "glibc.malloc.hugetlb=0" and pages < 2**15


@on_request
@pytest.mark.parametrize(
    "others",
    [
        "import sys; sys.ps1 = 'In : '",  # as IPython has it
        "import sys; sys.settrace(lambda *_: None)",
        "import sys; sys.orig_argv = [sys.executable, '-m', 'ipykernel_launcher', '-f', 'x']",
    ],
)
def test_a_process_that_is_not_its_own_is_left_alone(tmp_path, env, others):
    tunables, pages = _start(tmp_path, env, None, others)
    assert tunables is None and pages < 2**15


@pytest.mark.parametrize(
    ("library", "modes"),
    [
        ("glibc 2.31", "always [madvise] never"),
        ("glibc 2.36", "[always] madvise never"),
        ("glibc 2.36", "always madvise [never]"),
        ("glibc 2.36", None),
        ("glibc 2.36-mine", "always [madvise] never"),
        ("glibc", "always [madvise] never"),
        (None, "always [madvise] never"),
    ],
)
def test_nothing_is_done_where_it_would_change_nothing(library, modes, monkeypatch, tmp_path):
    if modes:
        (tmp_path / "enabled").write_text(modes)

    def confstr(name):
        if library is None:
            raise ValueError("unrecognized configuration name")
        return library

    monkeypatch.setattr(os, "confstr", confstr)
    monkeypatch.setattr(huge_pages, "_MODES", tmp_path / "enabled")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(os, "execve", lambda *call: pytest.fail("started again"))
    huge_pages.use_huge_pages()
