"""The page of a training run: pictures, curves and config, beside those of another run if asked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from gpstoken_jax.evaluation.curves import Series, diagram
from gpstoken_jax.evaluation.pages import render
from gpstoken_jax.evaluation.pictures import Figure, Photo, Picture
from gpstoken_jax.evaluation.tables import metrics_table

Curves = Mapping[str, tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]]
_POINTS = 200  # of a line; more are averaged
_WORDS = {
    "loss": "the weighted sum of the terms",
    "mse": "mean squared error of images in [-1, 1]",
    "lpips": "distance of VGG16 features",
    "inception": "distance of Inception features",
    "convnext": "distance of ConvNeXt logits",
    "vgg": "distance of VGG16 features of whole images",
    "gan": "minus the mean logit of reconstructions",
    "gan_weight": "weight of the GAN's term",
    "discriminator": "its loss: 1 is chance, 0 is certainty",
    "logits_real": "the discriminator's, of images",
    "logits_fake": "the discriminator's, of reconstructions",
    "grad_norm": "norm of the gradient",
    "grad_norm_discriminator": "norm of the discriminator's gradient",
    "learning_rate": "of the step",
    "val_psnr": "held out, dB",
    "val_ssim": "held out",
    "val_lpips": "held out",
    "val_loss": "held out",
    "val_loss_no_class": "held out, without the class",
    "images_per_second": "training alone",
    "seconds_per_step": "training alone",
    "data_wait": "share of the time",
    "device_wait": "share of the time",
    "tflops": "of a device, 10^12 operations a second",
    "mfu": "share of the device's bfloat16 peak",
    "device_memory_gb": "peak",
    "host_memory_gb": "peak",
    "unreadable_images": "so far",
    "skipped_steps": "so far, not finite",
}
_SPEED = frozenset(
    {"images_per_second", "seconds_per_step", "data_wait", "device_wait", "tflops", "mfu"}
    | {"device_memory_gb", "host_memory_gb", "unreadable_images", "skipped_steps"}
)
_LEFT_OUT = frozenset({"step", "seconds", "train_seconds", "eta_seconds", "crc32"})
_TILES = ("step", "loss", "val_psnr", "val_ssim", "val_lpips", "val_loss", "images_per_second")


def training_page(
    title: str,
    runs: Mapping[str, Curves],
    configs: Mapping[str, Mapping[str, Any]],
    samples: Sequence[tuple[int, Picture]],
) -> Iterator[bytes]:
    """Makes the page of a run, in pieces.

    Args:
      title: its heading.
      runs: steps and values of every figure, by the name of the run; the run itself first.
      configs: fields and values of the same runs' configs.
      samples: pictures by step, in order.
    """
    (_, curves), *_ = runs.items()
    names = {n for run in runs.values() for n, (_, values) in run.items() if values.any()}
    in_order = [*(n for n in _WORDS if n in names), *sorted(names - _WORDS.keys() - _LEFT_OUT)]
    groups = {"Held out": [], "Losses": [], "Speed and memory": []}
    for name in in_order:
        group = "Speed and memory" if name in _SPEED else "Losses"
        groups["Held out" if name.startswith("val_") else group].append(_curve(name, runs))
    fields = dict.fromkeys(field for config in configs.values() for field in config)
    rows = [(f, *(str(c.get(f, "(none)")) for c in configs.values())) for f in fields]
    changed = [row for row in rows if len(set(row[1:])) > 1]
    figures = [Figure(f"Step {step}", picture) for step, picture in samples]
    return render(
        "training.html",
        title=title,
        tiles=[(n, f"{curves[n][1][-1]:.6g}") for n in _TILES if n in curves],
        newest=Photo("held out", figures[-1:]) if figures else None,
        samples=Photo("held out", figures) if len(figures) > 1 else None,
        series=[Series(name, n, {}, dashed=n > 0) for n, name in enumerate(runs)],
        groups={name: group for name, group in groups.items() if group},
        points=_POINTS,
        compared=len(configs) > 1,
        changes=_table(configs, changed) if changed else None,
        config=dict(row[:2] for row in rows),
    )


def _table(names: Mapping[str, Any], rows: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    return metrics_table(["Field", *names], [(row, {}) for row in rows])


def _curve(name: str, runs: Mapping[str, Curves]) -> dict[str, Any]:
    words = f": {_WORDS[name]}" if name in _WORDS else ""
    lines, last = [], 0
    for number, (run, curves) in enumerate(runs.items()):
        if name not in curves:
            continue
        steps, values = (_thin(array) for array in curves[name])
        texts = [""] * (len(steps) - 1) + [f"{run}, step {steps[-1]:.0f}: {values[-1]:.6g}"]
        kind = Series(run, number, {}, dashed=number > 0).kind
        points = zip(steps.tolist(), values.tolist(), texts, strict=True)
        lines.append((kind, list(points)))
        last = max(last, steps[-1])
    first = min(x for _, points in lines for x, _, _ in points)
    return diagram(
        name=name + words,
        label=f"{name}{words}, by step",
        below="step",
        lines=lines,
        written=[(step, f"{step:.0f}") for step in dict.fromkeys((first, last))],
    )


def _thin(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "m"]:
    """Means of so many neighbours that the line has no more points than it can show."""
    parts = min(len(values), _POINTS)
    return np.array([part.mean() for part in np.array_split(values, parts)])
