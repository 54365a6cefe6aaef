"""Draws the curves of a training run, or of several on top of each other.

    python scripts/plot_run.py --run=runs/tiny_gan --output=curves.png

One panel a figure of metrics.jsonl; figures that a run does not have are left out.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from absl import flags
from matplotlib import pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpstoken_jax.programs import cli
from gpstoken_jax.runtime.run_directory import RunDirectory
from gpstoken_jax.training.metric_log import read_curves

RUNS = flags.DEFINE_multi_string("run", None, "A run's directory; repeatable.", required=True)
OUTPUT = flags.DEFINE_string("output", "curves.png", "The picture to write.")
FIGURES = flags.DEFINE_list(
    "figures",
    ["mse", "lpips", "val_psnr", "val_lpips", "discriminator", "gan_weight", "val_loss", "loss"],
    "Figures to draw, as metrics.jsonl names them.",
)
SMOOTH = flags.DEFINE_integer(
    "smooth", 8, "Logged steps that a line averages; held-out ones none.", lower_bound=1
)
COLUMNS = 3


def main() -> None:
    """Draws the curves that the flags name."""
    matplotlib.use("Agg")
    curves = {root: read_curves(RunDirectory(Path(root)).metrics) for root in RUNS.value}
    names = [name for name in FIGURES.value if any(name in run for run in curves.values())]
    if not names:
        raise ValueError(f"none of {', '.join(FIGURES.value)} is in {', '.join(RUNS.value)}")
    last = max(steps[-1] for run in curves.values() for steps, _ in run.values())
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(4 * columns, 2.6 * rows), squeeze=False, layout="constrained"
    )
    for panel, name in zip(panels.flat, names, strict=False):
        for root, run in curves.items():
            if name in run:
                smooth = 1 if name.startswith("val_") else SMOOTH.value  # those are means already
                draw(panel, *run[name], smooth, label=root)
        panel.set(title=name, xlabel="step", xlim=(0, last))
    for panel in panels.flat[len(names) :]:
        panel.set_visible(False)
    if len(curves) > 1:
        panels.flat[0].legend()
    figure.savefig(OUTPUT.value, dpi=100)
    print(f"{len(names)} figures of {len(curves)} run(s): {OUTPUT.value}")


def draw(panel: plt.Axes, steps: np.ndarray, values: np.ndarray, smooth: int, label: str) -> None:
    """The values, faint, and their moving average over ``smooth`` of them."""
    width = min(smooth, len(values))
    if width < 2 or len(values) < 3 * width:
        panel.plot(steps, values, marker=".", label=label)
        return
    (line,) = panel.plot(steps, values, alpha=0.25)
    window = np.ones(width) / width
    average = np.convolve(values, window, mode="valid")
    panel.plot(steps[width - 1 :], average, color=line.get_color(), label=label)
    low, high = np.percentile(values, (1, 99))
    panel.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))


if __name__ == "__main__":
    cli.run(main)
