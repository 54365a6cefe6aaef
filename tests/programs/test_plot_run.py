"""scripts/plot_run.py: a picture of what a run logged."""

import json
import sys
from pathlib import Path

from PIL import Image

from tests import forked

ROOT = Path(__file__).parents[2]


def _plot(env, *arguments):
    command = [sys.executable, "scripts/plot_run.py", *arguments]
    return forked.run(command, cwd=ROOT, env=env)


def test_curves_of_two_runs_one_of_which_lacks_a_figure(env, tmp_path):
    for name, figures in (("a", ("mse", "val_psnr")), ("b", ("mse",))):
        (tmp_path / name).mkdir()
        lines = [{"step": step, **dict.fromkeys(figures, 1 / step)} for step in range(1, 60)]
        lines[5]["mse"] = None  # a step that was not finite
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name / "metrics.jsonl").write_text(text)
    picture = tmp_path / "curves.png"
    result = _plot(env, f"--run={tmp_path / 'a'}", f"--run={tmp_path / 'b'}", f"--output={picture}")
    assert result.returncode == 0, result.stderr
    assert "2 figures of 2 run(s)" in result.stdout
    colours = Image.open(picture).convert("RGB").getcolors(1 << 24)
    assert len(colours) > 100, "nothing is drawn"


def test_a_run_without_a_log_is_named(env, tmp_path):
    result = _plot(env, f"--run={tmp_path}")
    assert result.returncode == 1
    assert "metrics.jsonl" in result.stderr and "Traceback" not in result.stderr
