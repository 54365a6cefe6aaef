"""Mistakes in calls of scripts/claims.py are told before anything is measured or written."""

import sys
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--claims=focus,bogus"], "there is no claim 'bogus'; there are partition, tokens"),
        ([], "work has no measurements: choose --claims of partition, tokens"),
    ],
)
def test_mistakes_leave_the_page_alone(arguments, said, env, tmp_path):
    page = tmp_path / "claims.md"
    page.write_text("as it was")
    places = [f"--photos={tmp_path}", f"--work={tmp_path / 'work'}", f"--page={page}"]
    command = [sys.executable, "scripts/claims.py", *places, *arguments]
    result = forked.run(command, cwd=ROOT, env=env)
    assert result.returncode == 1
    assert said in result.stderr and result.stderr.count("\n") == 1
    assert page.read_text() == "as it was"
    assert not (tmp_path / "work").exists()
