"""Converts published PyTorch weights for use here, and back; and published layouts.

    gpstoken convert --input=FILE --config=configs/gpstoken_m128.py --output=runs/m128
    gpstoken convert --input=FILE --config=configs/sit_xl.py:published --output=runs/sit_xl
    gpstoken convert --input=runs/m128 --to=torch --output=FILE
    gpstoken convert --input=FILE.pkl --to=layouts --output=FILE.safetensors

FILE is a safetensors file; the folder of a training checkpoint is read too. See docs/weights.md.
"""

import numpy as np
from absl import flags
from ml_collections import config_flags

from gpstoken_jax.generation.layouts import write_layouts
from gpstoken_jax.generation.layouts.release_pickle import layouts_of_pickle
from gpstoken_jax.programs import cli
from gpstoken_jax.programs.conversion import Conversion, export_weights, import_weights
from gpstoken_jax.runtime.run_directory import task_name

INPUT = flags.DEFINE_string(
    "input", None, "A safetensors file or folder; with --to=torch a run's directory.", required=True
)
OUTPUT = flags.DEFINE_string(
    "output", None, "The run's directory to make; with --to=torch the file.", required=True
)
TO = flags.DEFINE_enum("to", "jax", ["jax", "torch", "layouts"], "Which way.")
CONFIG = config_flags.DEFINE_config_file("config", help_string="Of the model; for --to=jax.")
WEIGHTS = flags.DEFINE_enum(
    "weights",
    None,
    ["both", "ema", "model"],
    "Averaged weights, last ones, or (only --to=jax) both; by default both, and ema for torch.",
)
STEP = flags.DEFINE_integer("step", None, "For --to=torch: which checkpoint, by default the last.")


def main() -> None:
    if TO.value == "jax":
        summarise(to_jax())
        print(next_step())
    elif TO.value == "layouts":
        layouts = layouts_of_pickle(INPUT.value)
        write_layouts(OUTPUT.value, layouts)
        print(
            f"{len(layouts)} layouts of {layouts.num_tokens} tokens in "
            f"{len(np.unique(layouts.label))} classes: {OUTPUT.value}"
        )
    else:
        summarise(to_torch())
        print(f"load it: safetensors.torch.load_file({str(OUTPUT.value)!r})")


def next_step() -> str:
    """What to do with a run's directory."""
    if task_name(CONFIG.value) == "sit":
        return f"generate: gpstoken generate --generator={OUTPUT.value} --tokenizer=RUN ..."
    return f"evaluate: python eval.py --checkpoint={OUTPUT.value} --data.folder=DIR"


def to_jax() -> Conversion:
    """Weights to a run's directory."""
    if CONFIG.value is None:
        raise ValueError("--config is missing: which model are the weights of?")
    if STEP.value is not None:
        raise ValueError("--step is for --to=torch")
    return import_weights(INPUT.value, CONFIG.value, OUTPUT.value, weights=WEIGHTS.value or "both")


def to_torch() -> Conversion:
    """A run's directory to weights."""
    if WEIGHTS.value == "both":
        raise ValueError("--to=torch writes one copy: --weights=ema or --weights=model")
    weights = "params" if WEIGHTS.value == "model" else "ema_params"
    return export_weights(INPUT.value, OUTPUT.value, step=STEP.value, weights=weights)


def summarise(done: Conversion) -> None:
    """Prints what was read, used, left out and written."""
    for name in done.read:
        print(f"read:       {name}")
    if done.source_step is not None:
        print(f"trained:    {done.source_step:,} steps, by the name of the folder")
    print(f"used:       {done.used} tensors, each once")
    for key, reason in done.unused.items():
        print(f"unused:     {key} ({reason})")
    for path in done.other_files:
        print(f"not read:   {path} (another network)")
    print(
        f"parameters: {done.num_parameters:,}, every one filled ({done.num_unused:,} more unused)"
    )
    print(f"written:    {done.written}")


if __name__ == "__main__":
    cli.run(main)
