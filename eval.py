"""Evaluates a trained tokenizer on images: a table, a JSON file and a report to look at.

    python eval.py --checkpoint=runs/tiny --data.folder=DIR --output=runs/tiny/eval

Without --data.* it takes the held-out split of the data that the run was trained on.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from gpstoken_jax import cli, data
from gpstoken_jax.evaluation import Evaluator, ImageResult
from gpstoken_jax.metrics import accumulate, compute_means
from gpstoken_jax.perceptual.weights import load_lpips
from gpstoken_jax.report import ReportSummary, make_row, write_report
from gpstoken_jax.run_directory import Tokenizer, load_tokenizer
from gpstoken_jax.training.chronometer import format_seconds

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "The run's directory, e.g. runs/tiny.", required=True
)
STEP = flags.DEFINE_integer("step", None, "Which of its checkpoints; the newest by default.")
WEIGHTS = flags.DEFINE_enum(
    "weights", "ema_params", ["ema_params", "params"], "Averaged weights, or the last ones."
)
DATA = cli.define_data_flags()
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
NUM_TOKENS = flags.DEFINE_integer("num_tokens", None, "Tokens an image; the config's by default.")
OUTPUT = flags.DEFINE_string("output", None, "Where results go; CHECKPOINT/eval by default.")
REPORT_IMAGES = flags.DEFINE_integer("report_images", 32, "Images shown in the report.")
LPIPS = flags.DEFINE_bool("lpips", True, "Measure LPIPS.")
PROGRESS_SECONDS = 5.0


def main() -> None:
    started = time.perf_counter()
    tokenizer = load_tokenizer(CHECKPOINT.value, step=STEP.value, weights=WEIGHTS.value)
    config = tokenizer.config
    cli.apply_flags(config.eval, EVAL.value)
    source = open_source(config)
    num_tokens = NUM_TOKENS.value or config.partition.num_tokens
    print(f"{CHECKPOINT.value} step {tokenizer.step}; {source.description}; {num_tokens} tokens")

    # ---- Every image once: metrics of all, pictures of the first few ----------------------------
    batches = data.eval_batches(
        source, config.data, config.model.image_size, config.eval.batch_size
    )
    evaluator = Evaluator(
        tokenizer,
        num_tokens,
        lpips_weights=load_lpips() if LPIPS.value else None,
        rounding=config.eval.rounding,
    )
    model_means, baseline_means, per_image, shown = {}, {}, [], []
    for result in progress(evaluator(batches), len(source)):
        model_means = accumulate(model_means, result.metrics)
        baseline_means = accumulate(baseline_means, result.baseline_metrics)
        per_image.append(
            {"name": result.name, "model": result.metrics, "bicubic": result.baseline_metrics}
        )
        if len(shown) < REPORT_IMAGES.value:
            shown.append(result)
    if not per_image:
        raise ValueError(f"none of the images could be read: {batches.unreadable.reasons}")

    # ---- Results: JSON for scripts, a report and a table for people -----------------------------
    means = {"model": compute_means(model_means), "bicubic": compute_means(baseline_means)}
    protocol = describe_protocol(tokenizer, source.description, num_tokens, len(per_image))
    output = Path(OUTPUT.value or Path(CHECKPOINT.value) / "eval")
    output.mkdir(parents=True, exist_ok=True)
    results = {
        "metrics": means,
        "protocol": protocol,
        "unreadable": batches.unreadable.reasons,
        "seconds": round(time.perf_counter() - started, 1),
        "images": per_image,
    }
    write_json(output / "metrics.json", results)
    report = write_report(output / "report.html", summary(means, protocol), map(row, shown))
    print_table(means, protocol)
    if batches.unreadable.count:
        print(f"skipped {batches.unreadable.count} unreadable image(s): see metrics.json")
    print(f"metrics: {output / 'metrics.json'}\nreport:  {report}")


def open_source(config: ConfigDict) -> data.ImageSource:
    """The images to evaluate: those of the flags, else those of the config."""
    given = {name: value for name, value in DATA.value.items() if value is not None}
    if given:
        config.data.update({"folder": None, "tfds_name": None, "tfds_dir": None, **given})
    split = SPLIT.value or ("all" if "folder" in given else config.data.eval_split)
    return data.open_source(config.data, split)


def progress(results: Iterable[ImageResult], total: int) -> Iterator[ImageResult]:
    """Passes results on and prints a line every few seconds."""
    start = last = time.perf_counter()
    for count, result in enumerate(results, 1):
        now = time.perf_counter()
        if now - last > PROGRESS_SECONDS or count == total:
            last, speed = now, count / (now - start)
            eta = format_seconds((total - count) / speed)
            print(f"{count}/{total} images  {speed:.1f} images/s  ETA {eta}", flush=True)
        yield result


def describe_protocol(tokenizer: Tokenizer, source: str, num_tokens: int, count: int) -> dict:
    """Everything that a figure depends on."""
    config = tokenizer.config
    size = config.model.image_size
    values = num_tokens * (5 + config.model.feature_channels)
    return {
        "checkpoint": CHECKPOINT.value,
        "step": tokenizer.step,
        "weights": WEIGHTS.value,
        "data": source,
        "num_images": count,
        "size": f"{size} x {size}",
        "crop": "short side resized (bilinear, antialiased), then centre crop",
        "num_tokens": num_tokens,
        "values_per_image": values,
        "baseline": f"bicubic down to at most {values} values and up again",
        "colour_range": "[0, 1] RGB",
        "rounding": config.eval.rounding,
        "dtype": config.model.dtype,
        "lpips": "VGG16, version 0.1" if LPIPS.value else "not measured",
        "commit": commit(),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }


def commit() -> str | None:
    """The project's commit, None outside a git checkout; "+" marks uncommitted changes."""
    command = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        head, changes = (
            subprocess.run([*command, *rest], capture_output=True, text=True, check=True).stdout
            for rest in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("+" if changes.strip() else "")


def summary(means: dict, protocol: dict) -> ReportSummary:
    """The head of the report."""
    methods = {f"GPSToken, {protocol['num_tokens']} tokens": means["model"]}
    methods["Bicubic, same number of values"] = means["bicubic"]
    return ReportSummary(
        title=f"Reconstructions of {protocol['checkpoint']}, step {protocol['step']}",
        methods=methods,
        protocol={key.replace("_", " "): value for key, value in protocol.items()},
    )


def row(result: ImageResult):
    """One photo of the report."""
    return make_row(
        result.name,
        result.image,
        result.reconstruction,
        result.baseline,
        result.initial,
        result.refined,
        result.metrics,
        result.baseline_metrics,
    )


def write_json(path: Path, value: dict) -> None:
    """Writes a JSON file, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)


def print_table(means: dict, protocol: dict) -> None:
    """The headline figures, last on the screen."""
    names = [name for name in ("psnr", "ssim", "lpips") if name in means["model"]]
    print(f"\n{'':24s}" + "".join(f"{name.upper():>9s}" for name in names))
    labels = {
        "model": f"GPSToken, {protocol['num_tokens']} tokens",
        "bicubic": "bicubic, same values",
    }
    for key, label in labels.items():
        print(f"{label:24s}" + "".join(f"{means[key][name]:9.3f}" for name in names))
    gain = means["model"]["psnr"] - means["bicubic"]["psnr"]
    print(f"{protocol['num_images']} images, {gain:+.2f} dB PSNR against the baseline\n")


if __name__ == "__main__":
    cli.run(main)
