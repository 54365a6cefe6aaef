"""Stages that run one after another, each a process with a time limit; results lie on disk at once.

A stage writes `NAME.json` itself, as often as it knows more, so one that hangs or crashes keeps
what it had found, and the others run all the same.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

DONE, FAILED, STOPPED, LEFT_OUT = "done", "failed", "stopped at its limit", "left out"


@dataclass(frozen=True)
class Stage:
    """A program to run.

    seconds: its limit. beside: its neighbours of the same number run at the same time, for what is
    not timed; 0 is alone.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    beside: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """End of a stage; `reason` is the last line of its log where it is not done."""

    name: str
    status: str
    seconds: float
    reason: str = ""


def write_json(path: Path, value: Any) -> None:
    """Writes the whole file or none of it."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    partial.replace(path)


def run_all(
    stages: Iterable[Stage], output: Path, seconds: float, say: Callable[[str], None] = print
) -> list[Outcome]:
    """Runs stages within `seconds` in all; `summary.json` has the outcomes so far, at any time."""
    output.mkdir(parents=True, exist_ok=True)
    known = earlier(output)
    ends = time.monotonic() + seconds
    outcomes: list[Outcome] = []
    groups = groupby(
        enumerate(stages), key=lambda item: (item[1].beside, item[1].beside or item[0])
    )
    for _, group in groups:
        for outcome in _run_together([stage for _, stage in group], output, ends):
            outcomes.append(outcome)
            known[outcome.name] = outcome
            summary = {name: asdict(known[name]) for name in known}
            write_json(output / "summary.json", summary)
            why = f": {outcome.reason}" if outcome.reason else ""
            say(f"{outcome.name}: {outcome.status} after {outcome.seconds:.0f} s{why}")
    return outcomes


def earlier(output: Path) -> dict[str, Outcome]:
    """Outcomes of all runs into this folder so far, by name, the last of each."""
    file = output / "summary.json"
    if not file.exists():
        return {}
    return {name: Outcome(**found) for name, found in json.loads(file.read_text()).items()}


def _run_together(stages: list[Stage], output: Path, ends: float) -> Iterable[Outcome]:
    begun = time.monotonic()
    if ends - begun < 1:
        yield from (Outcome(s.name, LEFT_OUT, 0.0, "no time was left") for s in stages)
        return
    running = {stage.name: (stage, _start(stage, output)) for stage in stages}
    try:
        while running:
            time.sleep(0.05)
            for stage, process in list(running.values()):
                status, spent = process.poll(), time.monotonic() - begun
                late = spent > stage.seconds or begun + spent > ends
                if status is None and not late:
                    continue
                _stop(process)
                del running[stage.name]
                end = STOPPED if status is None else FAILED if status else DONE
                reason = "" if end == DONE else _last_line(output / f"{stage.name}.log")
                yield Outcome(stage.name, end, spent, reason)
    finally:
        for _, process in running.values():
            _stop(process)


def _start(stage: Stage, output: Path) -> subprocess.Popen:
    with (output / f"{stage.name}.log").open("wb") as log:
        return subprocess.Popen(
            stage.command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **stage.environment},
            start_new_session=True,  # so that what it starts is stopped with it
        )


def _stop(process: subprocess.Popen) -> None:
    """Ends a stage with all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it printed nothing"
