"""Evaluates tokenizers on images: a table, JSON and CSV files and a report to look at.

    python eval.py --checkpoint=runs/tiny --data.folder=DIR --output=runs/tiny/eval
    python eval.py --checkpoints='runs/*/' --datasets=a=DIR,b=DIR --num_tokens=64,128 --output=DIR
    python eval.py --images=DIR --references=DIR --output=DIR      # what any other method made

Without a data set it takes the held-out split of the data that a run was trained on. Images larger
than the model's: --resolution=512 or 256x512. Tokens where they are wanted: --focus=x,y,w,h,s.
The same command again measures only what is not there yet; see docs/evaluation.md.

Exit code: 0 if all was measured, 2 if some cells of a grid failed or a flag is wrong, 1 if all did.
"""

import contextlib
import dataclasses
import tempfile
from pathlib import Path

from absl import flags
from etils import epy
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from gpstoken_jax.programs import cli, image_flags

with epy.lazy_imports():  # --help answers before JAX is there
    import jax

    from gpstoken_jax import evaluation
    from gpstoken_jax.data import resize
    from gpstoken_jax.runtime import buckets, files, outputs, processes, storage, text
    from gpstoken_jax.weights import feature_networks, networks

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "The run's directory, e.g. runs/tiny.")
cli.allow_buckets("checkpoint")
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
WEIGHTS = image_flags.define_weights_flag()
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
EVAL = cli.define_fields(
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
RESIZE = image_flags.define_resize_flag()
HIGH_RESOLUTION = image_flags.define_high_resolution_flag()
FOCUS, BIAS_MAP = image_flags.define_focus_flags()
BASELINES = flags.DEFINE_list(
    "baselines", ["bicubic", "jpeg", "webp"], "Baselines beside it, of bicubic, jpeg, webp."
)
BITS = flags.DEFINE_list(
    "bits",
    [],
    "Also measure tokens in so many bits a value, entropy-coded, beside JPEG and WebP of as many "
    "bytes: a rate-distortion curve. Several: 4,5,6,8.",
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
    "reference",
    None,
    "What to take distances to, beside the originals: saved statistics or images (.npz, as the "
    "evaluation suite of 'Diffusion Models Beat GANs' has them), or a folder of images, which are "
    "cut to --resolution if given.",
)
PRECISION_RECALL = flags.DEFINE_bool(
    "precision_recall", False, "Measure them, too; keeps the features of all images on disk."
)
SAVE_STATISTICS = flags.DEFINE_string(
    "save_statistics", None, "Where to save those of the originals (.npz)."
)
SAVE_IMAGES = flags.DEFINE_bool(
    "save_images", False, "Save the originals in that file, too: a reference batch of that suite."
)
SAVE_BATCH = flags.DEFINE_string(
    "save_batch",
    None,
    "Where to save the reconstructions or samples, a batch of that suite (.npz).",
)
OUTPUT = flags.DEFINE_string(
    "output", None, "Where results go; eval/ in the run by default, to be named for several."
)
cli.allow_buckets("output")
AGAIN = flags.DEFINE_bool("again", False, "Measure also what is there already.")
VERIFY = flags.DEFINE_bool(
    "verify", False, "Tell changed images by their content; by default, by size and date."
)
REPORT_IMAGES = flags.DEFINE_integer("report_images", 32, "Images shown in a report.")
REPORT_MAPS = flags.DEFINE_bool("report_maps", True, "Show token density and feature maps there.")
SOME_FAILED = 2
_BYTES_A_ROW = 100  # of an image, or more


def main() -> int:
    """Evaluates what the flags name; returns the exit code."""
    # ---- The grid: every checkpoint on every data set in every size with every number of tokens --
    check_flags()
    settings = read_settings()
    cells = plan(settings)
    if REFERENCE.value:  # takes long: only when the rest is known to be right
        settings = dataclasses.replace(settings, reference=read_reference(settings.network))
        cells = plan(settings)
    processes.check_same("the list of images", [[cell.name, cell.num_images] for cell in cells])

    # ---- Every image of every cell once: numbers of all, pictures of some -----------------------
    place = find_output()
    with contextlib.ExitStack() as stack:
        output = processes.in_first(lambda: stack.enter_context(claim(place, cells)))
        run = evaluation.Run(
            output.directory if output else path(place),
            output,
            settings,
            REPORT_IMAGES.value,
            REPORT_MAPS.value,
            AGAIN.value,
            cli.user_errors(),
        )
        results = run.measure_all(cells)

        # ---- All cells together: CSV for scripts, Markdown and a page for people ----------------
        failed = [result for result in results if result.error]
        if len(failed) == len(results) == 1:
            raise ValueError(failed[0].error)
        processes.in_first(lambda: report(run, results))
    return 0 if not failed else 1 if len(failed) == len(results) else SOME_FAILED


def check_flags() -> None:
    """Checks that one thing is evaluated, and that flags go together.

    Raises:
      ValueError: if not.
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
        raise ValueError("--images need their --references=DIR, or a --reference")
    if IMAGES.value and (
        NUM_TOKENS.value or BITS.value or DATASETS.value or FOCUS.value or BIAS_MAP.value
    ):
        raise ValueError("--images takes no data sets, numbers of tokens, bits or focus")
    if REFERENCE.value and not path(REFERENCE.value).exists():
        raise ValueError(f"there is no statistics file {REFERENCE.value}, and no such folder")
    saves = SAVE_STATISTICS.value or SAVE_BATCH.value
    if not FRECHET.value and (
        INCEPTION_FILE.value or REFERENCE.value or saves or PRECISION_RECALL.value
    ):
        raise ValueError(
            "--nofrechet goes without an Inception file, statistics, and --precision_recall"
        )
    if SAVE_IMAGES.value and not SAVE_STATISTICS.value:
        raise ValueError("--save_images go into the file of --save_statistics=FILE")
    if SAVE_STATISTICS.value and IMAGES.value and not REFERENCES.value:
        raise ValueError(
            "--save_statistics are of originals, and samples have none: --save_batch=FILE saves "
            "theirs"
        )
    if saves and (
        len(RESOLUTION.value) > 1
        or len(DATASETS.value) > 1
        or (CHECKPOINTS.value and not DATASETS.value and not any(DATA.value.values()))
    ):
        raise ValueError(
            "--save_statistics and --save_batch are for one data set at one resolution"
        )
    if OUTPUT.value is None and not CHECKPOINT.value:
        raise ValueError("say where the results go: --output=DIR")
    if buckets.is_url(OUTPUT.value or "") and jax.process_count() > 1:
        raise ValueError("several processes meet on a disk that all see: give a local --output")
    for flag in (SAVE_STATISTICS, SAVE_BATCH):
        saved = path(flag.value or "")
        if saved.is_file() and not files.check_sealed_file(saved, required=False):
            raise ValueError(f"--{flag.name}: {saved} is there and not of this program: move it")


def read_settings() -> "evaluation.Settings":
    """Reads how everything is measured, with the networks of the metrics, but no reference."""
    lpips = networks.load_lpips() if LPIPS.value else None
    network = None
    if FRECHET.value and INCEPTION_FILE.value:
        network = feature_networks.inception_network(path(INCEPTION_FILE.value))
    elif FRECHET.value:
        network = feature_networks.vgg16_network(lpips)
    return evaluation.Settings(
        step=STEP.value,
        weights=WEIGHTS.value,
        resize=RESIZE.value,
        split=SPLIT.value,
        batch_size=EVAL.value.batch_size,
        rounding=EVAL.value.rounding,
        high_resolution=HIGH_RESOLUTION.value,
        focus=tuple(FOCUS.value),
        bias_map=BIAS_MAP.value,
        lpips=lpips,
        network=network,
        precision_recall=PRECISION_RECALL.value,
        save_statistics=path(SAVE_STATISTICS.value) if SAVE_STATISTICS.value else None,
        save_images=SAVE_IMAGES.value,
        save_batch=path(SAVE_BATCH.value) if SAVE_BATCH.value else None,
        baselines=evaluation.check_baselines(BASELINES.value),
        bits=evaluation.check_bits(BITS.value),
        bytes_per_value=BYTES_PER_VALUE.value,
        verify=VERIFY.value,
    )


def read_reference(network: "feature_networks.FeatureNetwork") -> "evaluation.Reference":
    """Reads the --reference, or measures its images."""
    samples_alone, given = bool(IMAGES.value and not REFERENCES.value), sizes()
    return evaluation.read_reference(
        path(REFERENCE.value),
        network,
        with_features=PRECISION_RECALL.value and samples_alone,
        size=given[0] if len(given) == 1 else None,
    )


def plan(settings: "evaluation.Settings") -> "list[evaluation.Cell]":
    """Looks at all that is to be measured."""
    return [plan_images(settings)] if IMAGES.value else plan_grid(settings)


def sizes() -> "list[tuple[int, int]]":
    """The sizes of the flags, each once."""
    return list(dict.fromkeys(map(resize.parse_size, RESOLUTION.value)))


def plan_grid(settings: "evaluation.Settings") -> "list[evaluation.Cell]":
    """Looks at every cell; the error of one of several is kept for its turn."""
    grid = evaluation.make_grid(
        [path(CHECKPOINT.value)]
        if CHECKPOINT.value
        else evaluation.find_checkpoints(CHECKPOINTS.value),
        find_datasets(),
        sizes(),
        evaluation.parse_token_counts(NUM_TOKENS.value),
    )

    def plan_cell(combination: "evaluation.Combination") -> "evaluation.Cell":
        try:
            return evaluation.plan_tokenizer(combination, settings)
        except cli.user_errors() as error:
            if len(grid) == 1:
                raise
            return evaluation.broken_cell(combination.name, error)

    return [plan_cell(combination) for combination in grid]


def plan_images(settings: "evaluation.Settings") -> "evaluation.Cell":
    """Looks at images that were made elsewhere."""
    given = sizes()
    if len(given) > 1:
        raise ValueError("--images have one --resolution, that of their references")
    images, size = path(IMAGES.value), given[0] if given else None
    if not REFERENCES.value:
        return evaluation.plan_samples(images, settings, size)
    return evaluation.plan_pairs(images, path(REFERENCES.value), settings, size, VALUES.value)


def find_datasets() -> "list[evaluation.Dataset]":
    """The data sets of the flags; else the one that each run was trained on."""
    given = tuple((name, value) for name, value in DATA.value.items() if value is not None)
    if given and DATASETS.value:
        raise ValueError("name one data set as --data.*, or several as --datasets")
    if given:
        return [evaluation.Dataset(Path(given[0][1]).name, given)]
    return evaluation.parse_datasets(DATASETS.value) or [evaluation.Dataset(evaluation.HELD_OUT)]


def find_output() -> str:
    """The directory of the results."""
    if OUTPUT.value:
        return OUTPUT.value
    root, _ = evaluation.split_checkpoint(path(CHECKPOINT.value), STEP.value)
    if not root.is_dir() or buckets.is_url(CHECKPOINT.value):
        raise ValueError(f"{CHECKPOINT.value} is no local directory: say --output=DIR")
    return str(root / "eval")


def claim(place: str, cells: "list[evaluation.Cell]") -> "outputs.Output":
    """Claims the directory of the results before anything is measured.

    Raises:
      ValueError, OSError: if it is not ours, or cannot be written.
    """
    inputs = [folder for cell in cells for folder in cell.inputs]
    numbers = 2 * _BYTES_A_ROW * sum(cell.num_images for cell in cells)  # once while measuring
    remedy = "give another --output"
    disk = tempfile.gettempdir() if buckets.is_url(place) else path(place)
    storage.check_free_space(disk, numbers, "the numbers of the images take", remedy)
    for flag in (SAVE_STATISTICS, SAVE_BATCH):
        if flag.value:
            storage.check_writable(path(flag.value).parent)
    return outputs.open_output(place, "evaluation", {}, inputs=inputs)


def path(text: str) -> Path:
    """A path of a flag."""
    return Path(text).expanduser()


def report(run: "evaluation.Run", results: "list[evaluation.CellResult]") -> None:
    """Writes the tables, and prints the headline figures and where the rest is."""
    summary = run.write_summary(results)
    run.output.forget_missing()
    run.output.finish()
    print(f"\n{summary}")
    measured = [result for result in results if result.summary]
    for result in measured if len(results) == 1 else ():
        text.say(evaluation.describe_gain(result))
        if effect := evaluation.focus_effect(result):
            text.say(effect)
    for result in measured:
        of = f"{result.name}: " if len(results) > 1 else ""
        if skipped := result.summary["num_unreadable"]:
            text.say(f"{of}skipped {skipped} unreadable image(s): see metrics.json")
    warnings = (warning for one in measured for warning in one.summary["warnings"])
    for warning in dict.fromkeys(warnings):
        text.say(f"warning: {warning}")
    for names, error in evaluation.failures(results).items():
        text.say(f"FAILED {names}: {error}")
    if len(results) == 1:
        text.say(f"metrics: {run.directory / 'metrics.json'}")
    text.say(f"table:   {run.directory / 'results.md'}")
    text.say(f"report:  {run.directory / 'report.html'}")


if __name__ == "__main__":
    cli.run(main)
