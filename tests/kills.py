"""scripts/kill_and_resume.py, with programs that are forked."""

import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).parents[1]


def kill_and_resume(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs the script as a user does, but that it starts forks; prints, returns its exit code."""
    script = str(ROOT / "scripts" / "kill_and_resume.py")
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))  # it adds to it
    monkeypatch.setattr(subprocess, "Popen", forked.Program)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return runpy.run_path(script)["main"]()
