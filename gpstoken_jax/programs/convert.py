"""Converts published PyTorch weights for use here, and back; and published layouts.

    gpstoken convert --input=FILE --output=runs/m128
    gpstoken convert --input=FILE --task=sit --output=runs/sit_xl
    gpstoken convert --input=runs/m128 --to=torch --output=FILE
    gpstoken convert --input=FILE.pkl --to=layouts --output=FILE.safetensors

FILE is a safetensors or PyTorch file, a folder of a training checkpoint, or a repository of the
Hugging Face hub. The config is given or found out by the tensors' shapes.
See docs/weights.md.
"""

from absl import flags
from ml_collections import config_flags

from gpstoken_jax.configs.check import check_config
from gpstoken_jax.programs import cli

INPUT = flags.DEFINE_string(
    "input", None, "A weight file or folder; with --to=torch a run's directory.", required=True
)
OUTPUT = flags.DEFINE_string(
    "output", None, "The run's directory to make; with --to=torch the file.", required=True
)
TO = flags.DEFINE_enum("to", "jax", ["jax", "torch", "layouts"], "Which way.")
CONFIG = config_flags.DEFINE_config_file("config", help_string="Of the model; for --to=jax.")
TASK = flags.DEFINE_enum("task", "tokenizer", ["tokenizer", "sit"], "Without --config: what it is.")
WEIGHTS = flags.DEFINE_enum(
    "weights",
    None,
    ["both", "ema", "model"],
    "Averaged weights, last ones, or (only --to=jax) both; by default both, and ema for torch.",
)
STEP = flags.DEFINE_integer("step", None, "For --to=torch: which checkpoint, by default the last.")
cli.allow_buckets("input", "output")


def main() -> None:
    """Converts the weights that the flags name, in the direction they name."""
    from gpstoken_jax.runtime.buckets import as_given, is_url, writing_file
    from gpstoken_jax.runtime.run_directory import fetch_run, open_place_of_run
    from gpstoken_jax.training.conversion import export_weights, import_weights

    if TO.value == "layouts":
        convert_layouts()
    elif TO.value == "torch":
        if WEIGHTS.value == "both":
            raise ValueError("--to=torch writes one copy: --weights=ema or --weights=model")
        weights = "params" if WEIGHTS.value == "model" else "ema_params"
        run = fetch_run(INPUT.value, STEP.value) if is_url(INPUT.value) else INPUT.value
        with writing_file(OUTPUT.value) as file:
            print(as_given(str(export_weights(run, file, step=STEP.value, weights=weights))))
        print(f"load it: safetensors.torch.load_file({str(OUTPUT.value)!r})")
    else:
        if STEP.value is not None:
            raise ValueError("--step is for --to=torch")
        options = {"task": TASK.value, "weights": WEIGHTS.value or "both"}
        if CONFIG.value is not None:
            check_config(CONFIG.value)
        with open_place_of_run(OUTPUT.value) as place:
            done = import_weights(INPUT.value, CONFIG.value, place.directory, **options)
        print(as_given(str(done)))
        if done.config.task == "sit":
            print(f"generate: gpstoken generate --generator={OUTPUT.value} --tokenizer=RUN ...")
        else:
            print(f"evaluate: python eval.py --checkpoint={OUTPUT.value} --data.folder=DIR")


def convert_layouts() -> None:
    """Makes a file of layouts of the release's pickle."""
    from gpstoken_jax.generation.layouts import write_layouts
    from gpstoken_jax.generation.layouts.release_pickle import layouts_of_pickle
    from gpstoken_jax.runtime.buckets import fetch

    layouts = layouts_of_pickle(fetch(INPUT.value))
    write_layouts(OUTPUT.value, layouts)
    print(
        f"{len(layouts)} layouts of {layouts.num_tokens} tokens in "
        f"{len(set(layouts.label.tolist()))} classes: {OUTPUT.value}"
    )


if __name__ == "__main__":
    cli.run(main)
