"""The demo's report: pictures first, and one sentence on what they show."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from gpstoken_jax.data.demo_crops import Crops
from gpstoken_jax.evaluation.methods import Rate
from gpstoken_jax.evaluation.pages import render
from gpstoken_jax.evaluation.pictures import Figure, Photo
from gpstoken_jax.evaluation.tables import metrics_table
from gpstoken_jax.features.lpips import lpips
from gpstoken_jax.metrics.baselines import make_baselines
from gpstoken_jax.metrics.image import image_metrics, to_unit_range
from gpstoken_jax.tokenizer import Tokenizer
from gpstoken_jax.tokens.visualize import draw_gaussians, to_uint8, token_colours
from gpstoken_jax.weights.networks import load_lpips

BITS = 6
MODEL = "Tokens"
MAX_ROWS = 8
# Of a run's own words: other settings than before, that the demo ends it; its length, hours of it.
_OF_NO_USE = re.compile(r"config\.|SIGTERM|.* has begun already: ")
_LENGTH = re.compile(r"(?<=^step )(\d+)/\d+(.*)  ETA \S+")
Means = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Showcase:
    """Reconstructions of some images, with their metrics.

    Attributes:
      num_tokens: of an image.
      geometry: refined Gaussians, as the tokens in bits have them.
      initial: those of the partition.
      images: by method.
      metrics: by method, then name, one number an image.
    """

    num_tokens: int
    geometry: Float[np.ndarray, "n l 5"]
    initial: Float[np.ndarray, "n l 5"]
    images: Mapping[str, Float[np.ndarray, "n s s 3"]]
    metrics: Mapping[str, Mapping[str, Float[np.ndarray, " n"]]]

    def means(self, method: str) -> dict[str, float]:
        """Means of a method's metrics."""
        return {name: float(values.mean()) for name, values in self.metrics[method].items()}


def reconstruct(
    tokenizer: Tokenizer, images: Float[np.ndarray, "n s s 3"], others: Float[np.ndarray, "m s s 3"]
) -> Showcase:
    """Reconstructs images of their tokens in ``BITS`` bits, and by baselines of the same storage.

    Args:
      tokenizer: whose tokens.
      images: in [-1, 1].
      others: images that levels and frequencies of the code are fitted on.
    """
    rate = Rate.fit(np.asarray(tokenizer.encode(others)), BITS, num_images=2**30)  # tables: below
    tokens, initial = tokenizer.encode_with_layout(images)
    stored, size = rate.apply(np.asarray(tokens))
    made = {MODEL: (tokenizer.decode(stored), size)}
    budget = round(float(size["bytes"].mean()))
    values = tokens.shape[1] * tokens.shape[2]
    for name, baseline in make_baselines(("bicubic", "jpeg", "webp"), values, budget).items():
        made[name] = baseline(images)
    weights, measure = load_lpips(), jax.jit(lpips)
    originals = 2 * to_unit_range(images, "none") - 1
    metrics = {}
    for name, (found, stored_bytes) in made.items():
        of = {key: np.asarray(value) for key, value in image_metrics(images, found).items()}
        as_file = 2 * to_unit_range(found, "round") - 1
        of["lpips"] = np.asarray(measure(weights, as_file, originals))
        metrics[name] = of | dict(stored_bytes)
    pictures = {name: np.asarray(found) for name, (found, _) in made.items()}
    return Showcase(tokens.shape[1], stored[..., :5], initial, pictures, metrics)


def describe(found: Showcase) -> str:
    """A line for the screen."""
    parts = []
    labels = {MODEL: f"{found.num_tokens} tokens", "bicubic": "bicubic"}
    for method, label in (labels | {"jpeg": "JPEG", "webp": "WebP"}).items():
        means = found.means(method)
        parts.append(f"{label} {means['psnr']:.2f} dB")
    return "      " + ", ".join(parts)


def shorten(line: str, left: float | None) -> str:
    """A line of the training for the demo's screen, with the seconds that are left; or nothing."""
    if _OF_NO_USE.match(line):
        return ""
    return _LENGTH.sub(lambda match: f"{match[1]}{match[2]}  {left or 0:.0f} s left", line)


def headline(before: Showcase, after: Showcase | None, steps: int) -> str:
    """The result in words; ``steps`` of fine-tuning lie between the two."""
    last = after or before
    model, bicubic, jpeg, webp = (last.means(n) for n in (MODEL, "bicubic", "jpeg", "webp"))

    def beside(other: Means, name: str) -> str:
        gain = model["psnr"] - other["psnr"]
        return f"{abs(gain):.1f} dB {'above' if gain >= 0 else 'below'} {name}"

    text = (
        f"{last.num_tokens} tokens in {model['bytes']:.0f} bytes: "
        f"{beside(bicubic, 'bicubic of as many values')}, {beside(jpeg, 'JPEG')} and "
        f"{beside(webp, 'WebP')} of as many bytes."
    )
    if after is not None:
        gain = model["psnr"] - before.means(MODEL)["psnr"]
        text += f" {steps} steps of fine-tuning changed it by {gain:+.2f} dB."
    return text


def page(
    shown: Crops, before: Showcase, after: Showcase | None, steps: int, own: bool
) -> Iterator[bytes]:
    """Makes the report.

    Args:
      shown: the images.
      before: what the weights as they ship make of them.
      after: what they make after fine-tuning; None without.
      steps: of fine-tuning, over all calls.
      own: whether the photos are the user's.
    """
    labels = {"bicubic": "Bicubic, as many values", "jpeg": "JPEG", "webp": "WebP"}
    tuned = "Tokens, fine-tuned"
    rows = {MODEL: before.means(MODEL)}
    rows |= {tuned: after.means(MODEL)} if after else {}
    rows |= {label: (after or before).means(name) for name, label in labels.items()}
    photos = []
    for i in range(min(MAX_ROWS, len(shown.names))):
        image, last = shown.images[i], after or before
        colours = token_colours(last.initial[i])
        drawn = draw_gaussians(image, last.geometry[i], colours=colours)
        figures = [
            Figure("Photo", to_uint8(image), True),
            Figure(f"Its {last.num_tokens} Gaussians", drawn),
            _figure("Tokens", before, MODEL, i),
            *([_figure(tuned, after, MODEL, i)] if after else []),
            *(_figure(label, last, name, i) for name, label in labels.items()),
        ]
        photos.append(Photo(shown.names[i], figures))
    return render(
        "demo.html",
        title="Photos as Gaussians",
        lead=headline(before, after, steps),
        photos=photos,
        columns=len(photos[0].figures),
        table=metrics_table(["Method"], [((name,), means) for name, means in rows.items()]),
        count=len(shown.names),
        bits=BITS,
        own=own,
        tuned=after is not None,
    )


def _figure(caption: str, found: Showcase, method: str, i: int) -> Figure:
    metrics = {name: float(values[i]) for name, values in found.metrics[method].items()}
    kept: Sequence[str] = ("psnr", "bytes")
    return Figure(
        caption,
        to_uint8(found.images[method][i]),
        True,
        {n: metrics[n] for n in kept if n in metrics},
    )
