"""Evaluates a trained tokenizer on images: a table, a JSON file and a report to look at.

    python eval.py --checkpoint=runs/tiny --data.folder=DIR --output=runs/tiny/eval

Without --data.* it takes the held-out split of the data that the run was trained on. Images larger
than the model's: --resolution=512. Tokens where they are wanted: --focus=0.25,0.25,0.5,0.5,1.
"""

import json
import math
import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from gpstoken_jax import cli, data
from gpstoken_jax.evaluation import Evaluator, ImageResult
from gpstoken_jax.focus import box_strength, focus_mask, parse_focuses, read_strength_map
from gpstoken_jax.high_resolution import WAYS, floored_std_warning
from gpstoken_jax.metrics import accumulate, compute_means
from gpstoken_jax.perceptual.weights import load_lpips
from gpstoken_jax.report import (
    FOCUS_NOTE,
    MAP_NOTE,
    ReportRow,
    ReportSummary,
    make_row,
    map_figures,
    unfocused_figures,
    write_report,
)
from gpstoken_jax.run_directory import Tokenizer, load_tokenizer
from gpstoken_jax.tiles import tile_grid
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
NUM_TOKENS = flags.DEFINE_integer(
    "num_tokens", None, "Tokens an image, or a tile of one; the config's by default."
)
RESOLUTION = flags.DEFINE_integer(
    "resolution", None, "Side of the images, a multiple of the model's, which is the default."
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
OUTPUT = flags.DEFINE_string("output", None, "Where results go; CHECKPOINT/eval by default.")
REPORT_IMAGES = flags.DEFINE_integer("report_images", 32, "Images shown in the report.")
REPORT_MAPS = flags.DEFINE_bool("report_maps", True, "Show token density and feature maps there.")
LPIPS = flags.DEFINE_bool("lpips", True, "Measure LPIPS.")
PROGRESS_SECONDS = 5.0


def main() -> None:
    started = time.perf_counter()
    tokenizer = load_tokenizer(CHECKPOINT.value, step=STEP.value, weights=WEIGHTS.value)
    config = tokenizer.config
    cli.apply_flags(config.eval, EVAL.value)
    source = open_source(config)
    num_tokens = NUM_TOKENS.value or config.partition.num_tokens
    size = RESOLUTION.value or config.model.image_size
    tiles = tile_grid(size, size, config.model.image_size)
    way = HIGH_RESOLUTION.value or config.eval.get("high_resolution", "merged")
    focus = read_focus((size, size))
    print(
        f"{CHECKPOINT.value} step {tokenizer.step}; {source.description}; "
        f"{size} x {size} pixels; {describe_tokens(num_tokens, tiles)}"
    )

    # ---- Every image once: metrics of all, pictures of the first few ----------------------------
    batch_size = EVAL.value.batch_size or max(1, config.eval.batch_size // math.prod(tiles))
    batches = data.eval_batches(source, config.data, size, batch_size)
    evaluator = Evaluator(
        tokenizer,
        num_tokens,
        lpips_weights=load_lpips() if LPIPS.value else None,
        rounding=config.eval.rounding,
        tiles=tiles,
        high_resolution=way,
        focus=focus,
    )
    means, per_image, shown = measure(progress(evaluator(batches), len(source)))
    if not per_image:
        raise ValueError(f"none of the images could be read: {batches.unreadable.reasons}")

    # ---- Results: JSON for scripts, a report and a table for people -----------------------------
    protocol = describe_protocol(
        tokenizer, source.description, num_tokens, tiles, way, len(per_image)
    )
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
    inside = None if focus is None else focus_mask(focus)
    rows = (row(result, inside) for result in shown)
    report = write_report(output / "report.html", summary(means, protocol), rows)
    print_table(means, protocol)
    if batches.unreadable.count:
        print(f"skipped {batches.unreadable.count} unreadable image(s): see metrics.json")
    if warning := floored_std_warning({one["name"]: one["floored_std"] for one in per_image}):
        print(f"warning: {warning}")
    print(f"metrics: {output / 'metrics.json'}\nreport:  {report}")


def read_focus(size: tuple[int, int]) -> np.ndarray | None:
    """The strength at every pixel that --focus and --bias_map ask for together; None for none."""
    if not FOCUS.value and BIAS_MAP.value is None:
        return None
    strength = box_strength(size, *parse_focuses(FOCUS.value))
    if BIAS_MAP.value is not None:
        strength = strength + read_strength_map(BIAS_MAP.value, size)
    return strength


def measure(results: Iterable[ImageResult]) -> tuple[dict, list[dict], list[ImageResult]]:
    """Mean metrics by method, what is written of each image, and the first few results."""
    means, per_image, shown = {}, [], []
    for result in results:
        metrics = {"model": result.model.metrics, "bicubic": result.baseline_metrics}
        if result.unfocused is not None:
            metrics["unfocused"] = result.unfocused.metrics
        for method, values in metrics.items():
            means[method] = accumulate(means.get(method, {}), values)
        floored = {"floored_std": result.model.floored_std}
        per_image.append({"name": result.name, **metrics, **floored})
        if len(shown) < REPORT_IMAGES.value:
            shown.append(result)
    means = {method: compute_means(values) for method, values in means.items()}
    return means, per_image, shown


def describe_tokens(num_tokens: int, tiles: tuple[int, int]) -> str:
    """How many tokens an image has, in words."""
    count = math.prod(tiles)
    return f"{num_tokens} tokens" if count == 1 else f"{count} x {num_tokens} tokens"


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


def describe_protocol(
    tokenizer: Tokenizer,
    source: str,
    num_tokens: int,
    tiles: tuple[int, int],
    way: str,
    count: int,
) -> dict:
    """Everything that a figure depends on."""
    config = tokenizer.config
    size = tiles[0] * config.model.image_size
    num_tokens = math.prod(tiles) * num_tokens
    values = num_tokens * (5 + config.model.feature_channels)
    focus = [*FOCUS.value, *([BIAS_MAP.value] if BIAS_MAP.value else [])]
    return {
        "checkpoint": CHECKPOINT.value,
        "step": tokenizer.step,
        "weights": WEIGHTS.value,
        "data": source,
        "num_images": count,
        "size": f"{size} x {size}",
        "crop": "short side resized (bilinear, antialiased), then centre crop",
        "num_tokens": num_tokens,
        "tiles": f"{tiles[0]} x {tiles[1]}, {way}" if tiles != (1, 1) else "1 x 1",
        "focus": "; ".join(focus) or "none",
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
    title = f"Reconstructions of {protocol['checkpoint']}, step {protocol['step']}"
    labels = method_labels(protocol)
    notes = (MAP_NOTE,) * REPORT_MAPS.value + (FOCUS_NOTE,) * ("unfocused" in means)
    return ReportSummary(
        title=title,
        methods={labels[method]: values for method, values in means.items()},
        protocol={key.replace("_", " "): value for key, value in protocol.items()},
        lead=focus_effect(means) if "unfocused" in means else "",
        notes=notes,
    )


def method_labels(protocol: dict) -> dict[str, str]:
    """What a reader knows the methods by."""
    model = f"GPSToken, {protocol['num_tokens']} tokens"
    return {
        "model": model,
        "bicubic": "Bicubic, same number of values",
        "unfocused": f"{model}, without the focus",
    }


def focus_effect(means: dict) -> str:
    """What the focus changes, in a sentence."""
    before, after = means["unfocused"], means["model"]
    parts = (
        f"{place} it changes PSNR from {before[name]:.2f} to {after[name]:.2f} dB"
        for place, name in (("inside", "psnr_inside"), ("outside", "psnr_outside"))
    )
    return f"The focus: {', '.join(parts)}."


def row(result: ImageResult, inside: np.ndarray | None) -> ReportRow:
    """One photo of the report."""
    model, before, more = result.model, result.unfocused, []
    if before is not None:
        more += unfocused_figures(
            result.image,
            before.reconstruction,
            before.initial,
            before.refined,
            before.metrics,
            inside,
        )
    if REPORT_MAPS.value:
        more += map_figures(model.refined, model.feature_map)
    return make_row(
        result.name,
        result.image,
        model.reconstruction,
        result.baseline,
        model.initial,
        model.refined,
        model.metrics,
        result.baseline_metrics,
        inside=inside,
        more=more,
    )


def write_json(path: Path, value: dict) -> None:
    """Writes a JSON file, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)


def print_table(means: dict, protocol: dict) -> None:
    """The headline figures, last on the screen."""
    columns = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS"}
    columns |= {"psnr_inside": "inside", "psnr_outside": "outside"}
    names = [name for name in columns if name in means["model"]]
    labels = method_labels(protocol)
    width = max(map(len, labels.values())) + 1 if "unfocused" in means else 32
    print(f"\n{'':{width}s}" + "".join(f"{columns[name]:>9s}" for name in names))
    for key in means:
        values = "".join(f"{means[key][name]:9.3f}" for name in names)
        print(f"{labels[key]:{width}s}{values}")
    gain = means["model"]["psnr"] - means["bicubic"]["psnr"]
    print(f"{protocol['num_images']} images, {gain:+.2f} dB PSNR against the baseline")
    if "unfocused" in means:
        print(focus_effect(means))
    print()


if __name__ == "__main__":
    cli.run(main)
