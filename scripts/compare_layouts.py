"""Compares ways to draw layouts with the layouts of held-out images.

    python scripts/compare_layouts.py --real=VAL.safetensors --training=TRAIN.safetensors \
        --tree=runs/layout_tree --sit=runs/layout_sit --output=DIR

Draws as many layouts as there are held-out ones, of the same classes, from the training layouts
themselves and from the networks given; prints a table, writes DIR/layouts.json and DIR/layouts.png.
What the columns mean: gpstoken_jax/generation/layouts/measures.py. Times are without compilation.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from absl import flags
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpstoken_jax.generation.layouts import EmpiricalSampler, Layouts, open_layouts, read_layouts
from gpstoken_jax.generation.layouts.collect import select_labels
from gpstoken_jax.generation.layouts.measures import compare
from gpstoken_jax.generation.layouts.picture import layout_grid
from gpstoken_jax.generation.layouts.snap import snap
from gpstoken_jax.generation.layouts.split_tree import split_tree
from gpstoken_jax.programs import cli

REAL = flags.DEFINE_string("real", None, "File of held-out layouts.", required=True)
TRAINING = flags.DEFINE_string("training", None, "File of training layouts.", required=True)
TREE = flags.DEFINE_string("tree", None, "A run of configs/layout_tree.py.")
SIT = flags.DEFINE_string("sit", None, "A run of configs/layout_sit.py.")
OUTPUT = flags.DEFINE_string("output", None, "Where the results go.", required=True)
SEED = flags.DEFINE_integer("seed", 0, "Decides what is drawn.")
CLASSES = flags.DEFINE_integer("classes", 8, "Classes in the picture: those with most layouts.")

COLUMNS = ("valid_exact", "valid_rounded", "uncovered", "overlap", "size", "place")
COLUMNS += ("copies", "distinct", "layouts_per_second")

Draw = Callable[[int], np.ndarray]


def main() -> None:
    """Compares every method that the flags name."""
    training = read_layouts(TRAINING.value)
    real = select_labels(read_layouts(REAL.value), training.label_names)
    print(
        f"{len(real)} held-out layouts of {real.num_tokens} tokens; {len(training)} to learn from"
    )
    drawn, results = draw_and_compare(training, real)
    output = Path(OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    print_table(results)
    about = {"real": len(real), "training": len(training), "num_tokens": real.num_tokens}
    device = f"{jax.device_count()} {jax.devices()[0].device_kind}"
    about["held_out_copies"] = compare(real, real, training)["copies"]
    about |= {"seed": SEED.value, "device": device, "jax": jax.__version__}
    (output / "layouts.json").write_text(json.dumps({"about": about, "methods": results}, indent=1))
    Image.fromarray(picture(drawn)).save(output / "layouts.png")
    print(f"{output / 'layouts.json'}, {output / 'layouts.png'}")


def draw_and_compare(
    training: Layouts, real: Layouts
) -> tuple[dict[str, Layouts], dict[str, dict]]:
    """Layouts that each method draws, beside the held-out ones, and their measures."""
    drawn, results = {"held out": real}, {}

    def add(name: str, geometry: np.ndarray, seconds: float) -> None:
        drawn[name] = dataclasses.replace(real, geometry=geometry, source=name)
        results[name] = compare(drawn[name], real, training)
        results[name]["layouts_per_second"] = len(real) / seconds

    for name, draw in methods(training, real).items():
        draw(1)  # compiles
        geometry, seconds = timed(partial(draw, len(real)))
        add(name, geometry, seconds)
        if name == "SiT":
            tree = split_tree(real.image_size, real.min_size)
            snapped, more = timed(partial(snap, tree, geometry))
            add("SiT, snapped", snapped, seconds + more)
    return drawn, results


def methods(training: Layouts, real: Layouts) -> dict[str, Draw]:
    """By name, what draws a layout for each of the first held-out ones."""
    samplers = {"training layouts": EmpiricalSampler(training)}
    if TREE.value:
        samplers["tree network"] = open_layouts(TREE.value, num_tokens=real.num_tokens)
    if SIT.value:
        samplers["SiT"] = open_layouts(SIT.value, num_tokens=real.num_tokens)
    keys = jax.random.split(jax.random.key(SEED.value), len(real))

    def drawing(sampler):
        own = {name: i for i, name in enumerate(sampler.label_names)}
        numbers = np.array([own[name] for name in real.label_names] + [-1])
        return lambda count: sampler.sample(keys[:count], numbers[real.label[:count]])

    return {name: drawing(sampler) for name, sampler in samplers.items()}


def timed(make: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """A function's result, and the seconds that it took."""
    start = time.perf_counter()
    return make(), time.perf_counter() - start


def print_table(results: dict[str, dict]) -> None:
    """Prints the measures, a line a method."""
    titles = ("exact", "rounded", "uncovered", "overlap", "size TV", "place", "copies", "distinct")
    print(f"{'':18}" + "".join(f"{title:>11}" for title in (*titles, "layouts/s")))
    for name, result in results.items():
        *shares, speed = (result[column] for column in COLUMNS)
        print(f"{name:18}" + "".join(f"{share:11.4f}" for share in shares) + f"{speed:11.0f}")


def picture(drawn: dict[str, Layouts]) -> np.ndarray:
    """A row a method, held-out layouts first; a column a class. The classes with most layouts."""
    real = drawn["held out"]
    counts = np.bincount(real.label[real.label >= 0], minlength=len(real.label_names))
    classes = sorted(np.argsort(-counts, kind="stable")[: min(CLASSES.value, np.sum(counts > 0))])
    chosen = [np.flatnonzero(real.label == i)[0] for i in classes]
    titles = [real.label_names[i] for i in classes]
    return layout_grid([layouts.geometry[chosen] for layouts in drawn.values()], titles)


if __name__ == "__main__":
    cli.run(main)
