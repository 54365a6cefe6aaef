"""The notebook and the examples run as they are."""

import os
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from tests import forked

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "tour.ipynb"
EXECUTE = """
import os, sys
import nbformat
from nbclient import NotebookClient

source, result = sys.argv[1:]
book = nbformat.read(source, 4)
NotebookClient(book, resources={"metadata": {"path": os.path.dirname(source)}}).execute()
nbformat.write(book, result)
"""


def _run(arguments, **env):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return forked.run([sys.executable, *arguments], cwd=ROOT, env=env)


@pytest.mark.slow
def test_the_tour_runs_from_top_to_bottom(random_run, tmp_path):
    """In a process of its own, as `jupyter execute` does it."""
    output = tmp_path / "tour.ipynb"
    result = _run(["-c", EXECUTE, str(NOTEBOOK), str(output)], GPSTOKEN_RUN=str(random_run))
    assert result.returncode == 0, result.stderr
    cells = [cell for cell in nbformat.read(output, 4).cells if cell.cell_type == "code"]
    shown = [out for cell in cells for out in cell.outputs if "image/png" in out.get("data", {})]
    assert len(shown) == 5
    assert "step 7: 8 tokens of 21 values for 32 pixels" in cells[0].outputs[0].text
    assert "(2, 8, 21)" in cells[1].outputs[-1].data["text/plain"]


def test_the_notebook_is_stored_without_outputs():
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.slow
def test_the_editing_example_draws_every_edit(random_run, tmp_path):
    output = tmp_path / "edits.png"
    arguments = [f"--checkpoint={random_run}", f"--output={output}", "--box=0,0,0.9,0.9"]
    result = _run(["examples/edit.py", *arguments])
    assert result.returncode == 0, result.stderr
    edits = np.asarray(Image.open(output)).astype(int)
    side = (edits.shape[1] + 4) // 6 - 4
    top = edits.shape[0] - 2 * side - 4  # below the titles
    pictures = [edits[top : top + side, i * (side + 4) :][:, :side] for i in range(6)]
    assert all(np.abs(picture - pictures[0]).max() > 0 for picture in pictures[1:])
    assert np.asarray(Image.open(tmp_path / "edits_interpolation.png")).std() > 0
    wrong = _run(["examples/edit.py", *arguments, "--box=0,0,2,2"])
    assert wrong.returncode == 1
    assert "fractions of the image" in wrong.stderr and "Traceback" not in wrong.stderr


@pytest.mark.slow
@pytest.mark.parametrize("example", ["focus.py", "high_resolution.py"])
def test_examples_draw_their_picture(example, random_run, tmp_path):
    output = tmp_path / "picture.png"
    result = _run([f"examples/{example}", f"--checkpoint={random_run}", f"--output={output}"])
    assert result.returncode == 0, result.stderr
    assert " dB" in result.stdout
    assert np.asarray(Image.open(output)).std() > 0
