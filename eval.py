"""Evaluates tokenizers on images: a table, JSON and CSV files and a report to look at.

    python eval.py --checkpoint=runs/tiny --data.folder=DIR --output=runs/tiny/eval
    python eval.py --checkpoints='runs/*/' --datasets=a=DIR,b=DIR --num_tokens=64,128 --output=DIR
    python eval.py --images=DIR --references=DIR --output=DIR      # what any other method made

Without a data set it takes the held-out split of the data that a run was trained on. Images larger
than the model's: --resolution=512 or 256x512. Tokens where they are wanted: --focus=x,y,w,h,s.
The same command again measures only what is not there yet; see docs/evaluation.md.

Exit code: 0 if all was measured, 2 if some cells of a grid failed, 1 if all did.
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from gpstoken_jax.evaluation import baselines, cells
from gpstoken_jax.evaluation.features import (
    FeatureNetwork,
    inception_network,
    load_reference,
    vgg16_network,
)
from gpstoken_jax.evaluation.job import Job
from gpstoken_jax.evaluation.pages import Pages, focus_effect
from gpstoken_jax.evaluation.pair_job import plan_pairs
from gpstoken_jax.evaluation.results import CellResult
from gpstoken_jax.evaluation.run import Run, Unplanned
from gpstoken_jax.evaluation.sample_job import plan_samples
from gpstoken_jax.evaluation.settings import Settings
from gpstoken_jax.evaluation.summary import describe_gain, failures, write_summary
from gpstoken_jax.evaluation.tokenizer_job import plan_tokenizer
from gpstoken_jax.features.weights import LPIPSWeights, load_lpips
from gpstoken_jax.model.high_resolution import WAYS
from gpstoken_jax.programs import cli
from gpstoken_jax.runtime.processes import in_first

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "The run's directory, e.g. runs/tiny.")
CHECKPOINTS = flags.DEFINE_list(
    "checkpoints", [], "Several runs' directories; patterns such as 'runs/*/' too."
)
IMAGES = flags.DEFINE_string(
    "images",
    None,
    "Instead of a run: images that any program made of the --references; or, without those, that a "
    "generator made, for the distance to a --reference.",
)
REFERENCES = flags.DEFINE_string(
    "references", None, "Their originals, of the same names; brought to --resolution if given."
)
VALUES = flags.DEFINE_integer(
    "values_per_image", None, "With --images: what the method stores, for the baselines' size."
)
STEP = flags.DEFINE_integer("step", None, "Which of its checkpoints; the newest by default.")
WEIGHTS = flags.DEFINE_enum(
    "weights", "ema_params", ["ema_params", "params"], "Averaged weights, or the last ones."
)
DATA = cli.define_data_flags()
cli.define_process_flags()
DATASETS = flags.DEFINE_list(
    "datasets", [], "Several data sets, each NAME=DIR or DIR: folders of images, or prepared ones."
)
SPLIT = flags.DEFINE_string(
    "split",
    None,
    "Split to evaluate; by default all of a folder given here, else the config's held-out split.",
)
EVAL = config_flags.DEFINE_config_dict(
    "eval",
    ConfigDict({"batch_size": placeholder(int), "rounding": placeholder(str)}),
    "Overrides of the config: images a batch; 8-bit rounding, 'round' or 'truncate'.",
)
NUM_TOKENS = flags.DEFINE_list(
    "num_tokens", [], "Tokens an image, or a tile of one; the config's by default. Several: 64,128."
)
RESOLUTION = flags.DEFINE_list(
    "resolution",
    [],
    "Sizes of the images: a side, or HEIGHTxWIDTH; multiples of the model's side, which is the "
    "default. Several: 256,512,256x512.",
)
HIGH_RESOLUTION = flags.DEFINE_enum(
    "high_resolution",
    None,
    WAYS,
    "How an image of several tiles is decoded: its tokens merged (as published, or aligned to the "
    "pixel), or tile by tile; the config's way by default.",
)
FOCUS = flags.DEFINE_multi_string(
    "focus",
    [],
    "Move tokens into a box: x,y,w,h,strength with the top left corner and the size in fractions "
    "of the image. Strength 1 asks for more than any texture would get. Repeatable.",
)
BIAS_MAP = flags.DEFINE_string(
    "bias_map", None, "A grey picture of where tokens should go: black is strength 0, white 1."
)
BASELINES = flags.DEFINE_list(
    "baselines", list(baselines.NAMES), f"Baselines beside it, of {', '.join(baselines.NAMES)}."
)
BYTES_PER_VALUE = flags.DEFINE_integer(
    "bytes_per_value", 2, "Storage of a token's value that JPEG and WebP may spend.", lower_bound=1
)
LPIPS = flags.DEFINE_bool("lpips", True, "Measure LPIPS.")
FRECHET = flags.DEFINE_bool("frechet", True, "Measure Fréchet distances.")
INCEPTION_FILE = flags.DEFINE_string(
    "inception_file",
    None,
    "Inception-v3 weights for rFID and sFID (.pth or .safetensors, as torch-fidelity or "
    "pytorch-fid publish them); without them a Fréchet distance in VGG16 features is measured.",
)
REFERENCE = flags.DEFINE_string(
    "reference", None, "Saved statistics (.npz) to take distances to, not the images' own."
)
SAVE_STATISTICS = flags.DEFINE_string(
    "save_statistics", None, "Where to save those of the images themselves (.npz)."
)
OUTPUT = flags.DEFINE_string(
    "output", None, "Where results go; CHECKPOINT/eval by default, to be named for several."
)
AGAIN = flags.DEFINE_bool("again", False, "Measure also what is there already.")
REPORT_IMAGES = flags.DEFINE_integer("report_images", 32, "Images shown in a report.")
REPORT_MAPS = flags.DEFINE_bool("report_maps", True, "Show token density and feature maps there.")
SOME_FAILED = 2


def main() -> int:
    # ---- The grid: every checkpoint on every data set in every size with every number of tokens --
    check_flags()
    lpips = load_lpips() if LPIPS.value else None
    network = load_network(lpips)
    settings = Settings(
        step=STEP.value,
        weights=WEIGHTS.value,
        split=SPLIT.value,
        batch_size=EVAL.value.batch_size,
        rounding=EVAL.value.rounding,
        high_resolution=HIGH_RESOLUTION.value,
        focus=tuple(FOCUS.value),
        bias_map=BIAS_MAP.value,
        lpips=lpips,
        network=network,
        reference=load_reference(REFERENCE.value, network) if REFERENCE.value else None,
        reference_name=REFERENCE.value,
        save_statistics=Path(SAVE_STATISTICS.value) if SAVE_STATISTICS.value else None,
        baselines=baselines.check_names(BASELINES.value),
        bytes_per_value=BYTES_PER_VALUE.value,
    )
    jobs = [plan_images(settings)] if IMAGES.value else plan_grid(settings)

    # ---- Every image of every cell once: numbers of all, pictures of some -----------------------
    pages = Pages(REPORT_IMAGES.value, REPORT_MAPS.value)
    output = find_output()
    run = Run(output, settings, pages, AGAIN.value, cli.USER_ERRORS)
    results = run.measure_all(jobs)

    # ---- All cells together: CSV for scripts, Markdown and a page for people --------------------
    failed = [result for result in results if result.error]
    if len(failed) == len(results) == 1:
        raise ValueError(failed[0].error)
    in_first(lambda: report(results, write_summary(output, results)))
    return 0 if not failed else 1 if len(failed) == len(results) else SOME_FAILED


def check_flags() -> None:
    """What is evaluated is one of three things.

    Raises:
      ValueError: if it is not, or flags do not go together.
    """
    given = [flag.name for flag in (CHECKPOINT, CHECKPOINTS, IMAGES) if flag.value]
    if len(given) != 1:
        raise ValueError(
            "name one of --checkpoint=RUN, --checkpoints='runs/*/' and --images=DIR, not "
            + (" and ".join(given) or "none")
        )
    if REFERENCES.value and not IMAGES.value:
        raise ValueError("--references=DIR are of --images=DIR")
    if IMAGES.value and not (REFERENCES.value or REFERENCE.value):
        raise ValueError("--images need their --references=DIR, or a --reference=FILE.npz")
    if IMAGES.value and (NUM_TOKENS.value or DATASETS.value or FOCUS.value or BIAS_MAP.value):
        raise ValueError("--images takes no data sets, numbers of tokens or focus")
    if not FRECHET.value and (INCEPTION_FILE.value or REFERENCE.value or SAVE_STATISTICS.value):
        raise ValueError("--nofrechet goes without an Inception file and statistics")
    if SAVE_STATISTICS.value and (
        len(RESOLUTION.value) > 1
        or len(DATASETS.value) > 1
        or not (CHECKPOINT.value or CHECKPOINTS.value or REFERENCES.value)
        or (CHECKPOINTS.value and not DATASETS.value and not any(DATA.value.values()))
    ):
        raise ValueError("--save_statistics is for one data set at one resolution")
    if OUTPUT.value is None and not CHECKPOINT.value:
        raise ValueError("say where the results go: --output=DIR")


def load_network(lpips: LPIPSWeights | None) -> FeatureNetwork | None:
    """The network of the Fréchet distances."""
    if not FRECHET.value:
        return None
    if INCEPTION_FILE.value:
        return inception_network(INCEPTION_FILE.value)
    return vgg16_network(lpips)


def find_output() -> Path:
    """Where results go."""
    return Path(OUTPUT.value or Path(CHECKPOINT.value) / "eval")


def plan_grid(settings: Settings) -> list[Job | Unplanned]:
    """Looks at every cell; what is wrong with one is kept for its turn."""
    grid = cells.make_grid(
        [Path(CHECKPOINT.value)] if CHECKPOINT.value else cells.find_checkpoints(CHECKPOINTS.value),
        find_datasets(),
        cells.parse_sizes(RESOLUTION.value),
        cells.parse_token_counts(NUM_TOKENS.value),
    )

    def plan(cell: cells.Cell) -> Job | Unplanned:
        try:
            return plan_tokenizer(cell, settings)
        except cli.USER_ERRORS as error:
            return Unplanned(cell.name, str(error))

    return [plan(cell) for cell in grid]


def plan_images(settings: Settings) -> Job:
    """Looks at images that were made elsewhere."""
    sizes = cells.parse_sizes(RESOLUTION.value)
    if len(sizes) > 1 or (sizes and not REFERENCES.value):
        raise ValueError("--images have one --resolution, that of their --references")
    size = sizes[0] if sizes else None
    if not REFERENCES.value:
        return plan_samples(Path(IMAGES.value), settings)
    return plan_pairs(Path(IMAGES.value), Path(REFERENCES.value), settings, size, VALUES.value)


def find_datasets() -> list[cells.Dataset]:
    """The data sets of the flags; else the one that each run was trained on."""
    given = tuple((name, value) for name, value in DATA.value.items() if value is not None)
    if given and DATASETS.value:
        raise ValueError("name one data set as --data.*, or several as --datasets")
    if given:
        return [cells.Dataset(Path(given[0][1]).name, given)]
    return cells.parse_datasets(DATASETS.value) or [cells.Dataset(cells.HELD_OUT)]


def report(results: list[CellResult], summary) -> None:
    """The headline figures and where the rest is, last on the screen."""
    print(f"\n{summary.text}")
    measured = [result for result in results if result.summary]
    for result in measured if len(results) == 1 else ():
        print(describe_gain(result))
        means = result.summary["metrics"]
        if "unfocused" in means:
            print(focus_effect(means))
    for result in measured:
        of = f"{result.name}: " if len(results) > 1 else ""
        if skipped := result.summary["num_unreadable"]:
            print(f"{of}skipped {skipped} unreadable image(s): see metrics.json")
    for warning in dict.fromkeys(text for one in measured for text in one.summary["warnings"]):
        print(f"warning: {warning}")
    for error, names in failures(results).items():
        print(f"FAILED {', '.join(names)}: {error}")
    if len(results) == 1:
        print(f"metrics: {results[0].directory / 'metrics.json'}")
    print(f"table:   {summary.markdown}\nreport:  {summary.page}")


if __name__ == "__main__":
    cli.run(main)
