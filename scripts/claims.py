"""Checks the paper's claims in small, and writes docs/claims.md with its curves.

    python scripts/claims.py --photos=DIR --claims=tokens,focus,editing
    python scripts/claims.py --photos=DIR --claims=partition,autoencoder --seeds=3 --steps=300

DIR has train/ and val/. What was measured is kept in --work; the page is made of all that is there,
so claims can be measured one by one, and trainings go on where they were stopped. These are of 32 x
32 pixels: some four minutes of one core each.
"""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from absl import flags
from matplotlib import pyplot as plt
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpstoken_jax import Tokenizer, data
from gpstoken_jax.configs import photos_small
from gpstoken_jax.data.transforms import to_unit_range
from gpstoken_jax.metrics.baselines import bicubic_baseline
from gpstoken_jax.metrics.image import image_metrics
from gpstoken_jax.model.decoder import Decoder
from gpstoken_jax.model.gpstoken import GPSToken, init_params
from gpstoken_jax.model.high_resolution import decode_images, encode_images
from gpstoken_jax.model.layers import ResnetBlock, conv, group_norm
from gpstoken_jax.programs import cli
from gpstoken_jax.runtime.files import write_file, write_json
from gpstoken_jax.runtime.progress import Progress
from gpstoken_jax.tokens import editing
from gpstoken_jax.training.optimizer import create_optimizer, learning_rate

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = flags.DEFINE_string("photos", None, "A folder with train/ and val/.", required=True)
CLAIMS = flags.DEFINE_list("claims", [], "Which to measure: the names of MEASURE; none: the page.")
WORK = flags.DEFINE_string("work", "runs/claims", "Where measurements are kept.")
PAGE = flags.DEFINE_string("page", str(ROOT / "docs/claims.md"), "The page to write.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "photos-small", "Of (c), (d) and (e).")
SEEDS = flags.DEFINE_integer("seeds", 3, "Of (a), (b) and (f).", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 300, "Of each training, of 16 images.", lower_bound=1)
BATCH, SIDE, NUM_TOKENS = 16, 32, 16
LATENTS = (2, 5, 10, 20)  # channels of the autoencoder on its map of 8 x 8
MOST_TOKENS = 64
CENTRE = np.array([[-0.5, -0.5, 0.5, 0.5]], np.float32)
Result = dict[str, Any]


def main() -> None:
    """Measures what was asked for, and makes the page of all there is."""
    matplotlib.use("Agg")
    work = Path(WORK.value)
    for name in CLAIMS.value:
        if name not in MEASURE:
            raise ValueError(f"there is no claim {name!r}; there are {', '.join(MEASURE)}")
    if not CLAIMS.value and not any((work / f"{name}.json").is_file() for name in MEASURE):
        raise ValueError(f"{work} has no measurements: choose --claims of {', '.join(MEASURE)}")
    work.mkdir(parents=True, exist_ok=True)
    for name in CLAIMS.value:
        write_json(work / f"{name}.json", MEASURE[name]())
        print(f"{name}: {work / f'{name}.json'}", flush=True)
    found = {
        n: json.loads((work / f"{n}.json").read_text())
        for n in MEASURE
        if (work / f"{n}.json").is_file()
    }
    write_page(found)


# ---- One set of weights: (c), (d), (e) -----------------------------------------------------------


def measure_tokens() -> Result:
    """(c): PSNR of the held-out photos with 16 to 128 tokens, and of bicubic of as many values."""
    tokenizer, images = load()
    drawn = tokenizer.config.train.get("num_tokens", ())
    result = {"counts": [16, 24, 32, 48, 64, 96, 128], "tokens": [], "bicubic": []}
    result["trained"] = (
        f"one of {tuple(drawn)} tokens, drawn at each step" if drawn else "32 tokens alone"
    )
    for count in result["counts"]:
        if count > MOST_TOKENS:  # of regions as small as in training
            tokenizer.config.partition.min_size = 4
        tokens = tokenizer.encode(images, num_tokens=count)
        result["tokens"].append(psnr(images, tokenizer.decode(tokens)).tolist())
        copies = bicubic_baseline(images, count * tokens.shape[-1])
        result["bicubic"].append(psnr(images, copies).tolist())
    return result | about(tokenizer, images)


def measure_focus() -> Result:
    """(d): PSNR inside and outside of the central quarter, by strength of a focus on it."""
    tokenizer, images = load()
    quarter = images.shape[1] // 4
    inside = np.zeros(images.shape[1:3], bool)
    inside[quarter:-quarter, quarter:-quarter] = True
    result = {"strengths": [0.0, 0.1, 0.25, 0.5, 1.0, 2.0], "inside": [], "outside": []}
    for strength in result["strengths"]:
        box = np.concatenate([CENTRE, [[strength]]], axis=1)
        error = np.square(tokenizer.decode(tokenizer.encode(images, focus=box)) - images).mean(-1)
        for name, where in (("inside", inside), ("outside", ~inside)):
            result[name].append((10 * np.log10(4 / error[:, where].mean(-1))).tolist())
    return result | about(tokenizer, images)


def measure_editing() -> Result:
    """(e): moving tokens moves the picture; changing one token's features changes it there."""
    tokenizer, images = load()
    if len(images) < 2:
        raise ValueError("features come from another photo: it takes two held-out ones")
    side, cells = images.shape[1], tokenizer.config.model.render_size
    tokens = tokenizer.encode(images)
    plain = tokenizer.decode(tokens)
    result: Result = {"pixels": [], "moved": [], "unmoved": []}
    for shift in (1, 2, 3):  # cells of the feature map
        pixels = shift * side // cells
        moved = tokenizer.decode(editing.move(jnp.asarray(tokens), (2 * shift / (cells - 1), 0.0)))
        kept = slice(side // 4 + pixels, -side // 8), slice(side // 8, -side // 8)
        wanted = np.roll(plain, pixels, axis=2)
        result["pixels"].append(pixels)
        for name, other in (("moved", wanted), ("unmoved", plain)):
            a, b = (x[:, kept[1], kept[0]] for x in (moved, other))
            result[name].append((10 * np.log10(4 / np.square(a - b).mean((1, 2, 3)))).tolist())
    rng, shares, areas = np.random.default_rng(0), [], []
    margin, grid = 4 * side // cells, np.linspace(-1, 1, side)  # how far the decoder looks around
    for i in range(len(images)):
        one = int(rng.integers(tokens.shape[1]))
        changed = np.array(tokens[i])
        changed[one, 5:] = tokens[(i + 1) % len(images), one, 5:]
        change = np.square(tokenizer.decode(changed) - plain[i]).sum(-1)
        sigma_x, sigma_y, _, mu_x, mu_y = tokens[i, one, :5]
        reach = 2 * margin / side
        near_x = np.abs(grid - mu_x) <= 3 * sigma_x + reach
        near_y = np.abs(grid - mu_y) <= 3 * sigma_y + reach
        near = near_y[:, None] & near_x
        shares.append(float(change[near].sum() / change.sum()))
        areas.append(float(near.mean()))
    return result | {"share": shares, "area": areas} | about(tokenizer, images)


def load() -> tuple[Tokenizer, np.ndarray]:
    """The tokenizer and the held-out photos at its size."""
    tokenizer = Tokenizer.from_pretrained(CHECKPOINT.value)
    return tokenizer, read_val(tokenizer.config, tokenizer.image_size)


def about(tokenizer: Tokenizer, images: np.ndarray) -> Result:
    """The weights and photos that figures are of."""
    return {"checkpoint": CHECKPOINT.value, "step": tokenizer.step, "photos": len(images)}


# ---- Trainings: (a), (b), (f) --------------------------------------------------------------------

KINDS = {  # of tokenizers, all trained alike
    "adaptive, refined": ({}, {}),
    "uniform grid, refined": ({"weight": 0.0}, {}),
    "adaptive, fixed": ({}, {"refine": False}),
    "uniform grid, fixed": ({"weight": 0.0}, {"refine": False}),
}


def measure_partition() -> Result:
    """(a) and (b): the partition and the refinement, each with and without."""
    result: Result = {name: [] for name in KINDS}
    for seed in range(SEEDS.value):
        for name, (partition, encoder) in KINDS.items():
            config = small_config(seed)
            config.partition.update(partition)
            config.model.encoder.update(encoder)
            result[name].append(kept(f"{name}, seed {seed}", partial(train_tokenizer, config)))
    return {"psnr": result, **training()}


def measure_autoencoder() -> Result:
    """(f): autoencoders with a grid of latents, of several numbers of values."""
    result: Result = {str(64 * channels): [] for channels in LATENTS}
    for seed in range(SEEDS.value):
        for channels in LATENTS:
            measure = partial(train_autoencoder, small_config(seed), channels)
            label = f"grid of {64 * channels} values, seed {seed}"
            result[str(64 * channels)].append(kept(label, measure))
    return {"psnr": result, **training()}


def kept(label: str, measure: Callable[[], float]) -> float:
    """Measures the PSNR of one training, or finds it where an earlier call has kept it."""
    path = Path(WORK.value) / f"trainings_of_{STEPS.value}_steps.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    found = dict(json.loads(line) for line in lines)
    if label not in found:
        found[label] = measure()
        with path.open("a") as file:
            file.write(json.dumps([label, found[label]]) + "\n")
    print(f"{label}: {found[label]:.2f} dB", flush=True)
    return found[label]


def training() -> Result:
    """Length and number of the trainings."""
    return {"steps": STEPS.value, "batch": BATCH, "values": NUM_TOKENS * 21, "seeds": SEEDS.value}


def small_config(seed: int) -> ConfigDict:
    """photos_small, of half the size."""
    config = photos_small.get_config()
    config.model.update(image_size=SIDE, render_size=8)
    config.model.encoder.update(width=96, depth=4)
    config.partition.update(num_tokens=NUM_TOKENS, min_size=4)
    config.optimizer.update(decay="cosine", warmup_steps=STEPS.value // 10)
    config.seed = seed
    return config


class Autoencoder(nn.Module):
    """A grid of latents [8, 8, C] between convolutions as wide as the tokenizer's."""

    config: ConfigDict
    latents: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Encodes and decodes."""
        decoder = self.config.model.decoder
        x = conv(decoder.channels, 3, jnp.float32, "stem")(images)

        def norm(name: str) -> nn.GroupNorm:
            return group_norm(decoder.norm_groups, jnp.float32, name)

        for level, factor in enumerate(decoder.multipliers):
            width = decoder.channels * factor
            x = ResnetBlock(width, norm, jnp.float32, name=f"down_{level}")(x)
            if level + 1 < len(decoder.multipliers):
                x = nn.avg_pool(x, (2, 2), (2, 2))
        x = conv(self.latents, 3, jnp.float32, "latents")(x)
        fields = ("channels", "multipliers", "blocks_per_level", "norm_groups")
        return Decoder(**{name: decoder[name] for name in fields}, name="decoder")(x)


def train_tokenizer(config: ConfigDict) -> float:
    """Trains one, and returns its held-out PSNR."""
    model, partition = GPSToken(config.model), config.partition.copy_and_resolve_references()

    def run(params: Any, images: jax.Array) -> jax.Array:
        _, tokens = encode_images(model, params, images, **partition)
        return decode_images(model, params, tokens, (1, 1)).images

    init = jax.jit(lambda key: init_params(model, key))
    return train(config, run, init(jax.random.key(config.seed)))


def train_autoencoder(config: ConfigDict, latents: int) -> float:
    """Trains one in the same way, and returns its held-out PSNR."""
    model = Autoencoder(config, latents)
    params = jax.jit(model.init)(jax.random.key(config.seed), jnp.zeros((1, SIDE, SIDE, 3)))
    return train(config, model.apply, params)


def train(config: ConfigDict, run: Callable[[Any, jax.Array], jax.Array], params: Any) -> float:
    """Minimises the squared error; the mean of all later weights' PSNR is that of the last ones."""
    optimizer = create_optimizer(config.optimizer, learning_rate(config.optimizer, STEPS.value))

    @jax.jit
    def step(params, state, images):
        def loss(params):
            return jnp.square(run(params, images) - images).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    state, progress = optimizer.init(params), Progress(STEPS.value, unit="steps")
    for _, images in zip(range(STEPS.value), batches(config)):  # noqa: B905 - endless
        params, state, value = step(params, state, images)
        value.block_until_ready()
        progress.advance(1)
    images = read_val(config, SIDE)
    return float(psnr(images, jax.jit(run)(params, images)).mean())


def batches(config: ConfigDict) -> Iterator[np.ndarray]:
    """The same crops for every model of one seed."""
    config.data.folder = PHOTOS.value
    source = data.open_source(config.data, "train")
    for batch in data.train_batches(source, config.data, SIDE, BATCH, config.seed):
        yield to_unit_range(batch["image"])


def read_val(config: ConfigDict, side: int) -> np.ndarray:
    """The held-out photos."""
    config.data.folder = PHOTOS.value
    source = data.open_source(config.data, "val")
    found = data.eval_batches(source, config.data, side, 16)
    return np.concatenate([batch["image"][batch["mask"]] for batch in found])


def psnr(images: np.ndarray, others: Any) -> np.ndarray:
    """Of each image."""
    return np.asarray(image_metrics(images, np.asarray(others))["psnr"])


# ---- The page ------------------------------------------------------------------------------------


def write_page(found: dict[str, Result]) -> None:
    """Writes the page, with the sections and curves of what was measured."""
    path = Path(PAGE.value)
    parts = [HEAD.strip()]
    for name, section in SECTIONS.items():
        if name in found:
            parts.append(section(found[name], found, path.parent / "images"))
    missing = [f"- {TITLES[name]}: `--claims={name}`" for name in SECTIONS if name not in found]
    if missing:
        parts.append("## Not measured yet\n\n" + "\n".join(missing))
    write_file(path, "\n\n".join(parts) + "\n")
    print(f"page: {path}")


HEAD = """# The paper's claims, in small

For who asks which of the paper's claims hold, before there is a GPU to try them at full size.

Made by `python scripts/claims.py`, which keeps what it measured and makes this page of it. What
small models and few photos show is not what the paper shows on ImageNet: a claim that holds here is
made likelier, one that does not may need size.
"""


def tokens_section(one: Result, found: dict[str, Result], images: Path) -> str:
    """(c)."""
    counts = one["counts"]
    lines = {"tokens": one["tokens"], "bicubic of as many values": one["bicubic"]}
    plot(images / "claims_tokens.png", counts, lines, "tokens of an image", "PSNR, dB", log=True)
    gains = [np.mean(row) for row in one["tokens"]]
    verdict = "holds" if all(np.diff(gains) > 0) else f"holds up to {counts[int(np.argmax(gains))]}"
    rows = [
        f"| {n} | {mean_error(a)} | {mean_error(b)} |"
        for n, a, b in zip(counts, one["tokens"], one["bicubic"], strict=True)
    ]
    table = "\n".join(["| tokens | PSNR | bicubic |", "|---|---|---|", *rows])
    return f"""## (c) One set of weights, any number of tokens: {verdict}

![PSNR against the number of tokens](images/claims_tokens.png)

{of_weights(one, "tokens")} Trained with
{one["trained"]}. ± is the standard error over photos. Above {MOST_TOKENS} regions may be half as
large (`partition.min_size=4`).

{table}"""


def focus_section(one: Result, found: dict[str, Result], images: Path) -> str:
    """(d)."""
    base = {n: np.array(one[n][0]) for n in ("inside", "outside")}
    changes = {n: [np.array(row) - base[n] for row in one[n]] for n in base}
    lines = {f"{name} the box": rows for name, rows in changes.items()}
    plot(images / "claims_focus.png", one["strengths"], lines, "strength", "change of PSNR, dB")
    inside, outside = (np.mean(changes[n][-1]) for n in ("inside", "outside"))
    verdict = "holds" if inside > 0 > outside else "does not hold"
    return f"""## (d) A focus gains inside and pays outside: {verdict}

![Change of PSNR by strength](images/claims_focus.png)

{of_weights(one, "focus")} The box is the central quarter of the picture; the number of tokens is
the same. At strength
{one["strengths"][-1]:g} PSNR inside changes by {inside:+.2f} dB, outside by {outside:+.2f} dB."""


def editing_section(one: Result, found: dict[str, Result], images: Path) -> str:
    """(e)."""
    lines = {"beside the moved picture": one["moved"], "beside the unmoved one": one["unmoved"]}
    plot(images / "claims_editing.png", one["pixels"], lines, "pixels moved", "PSNR, dB")
    rows = "; ".join(
        f"{n} pixels: {np.mean(a):.1f} dB beside it, {np.mean(b):.1f} beside the unmoved one"
        for n, a, b in zip(one["pixels"], one["moved"], one["unmoved"], strict=True)
    )
    share, area = np.mean(one["share"]), np.mean(one["area"])
    moved = all(np.mean(a) > np.mean(b) for a, b in zip(one["moved"], one["unmoved"], strict=True))
    verdict = "holds" if moved and share > 2 * area else "holds in part"
    return f"""## (e) Geometry and texture are edited independently: {verdict}

![PSNR of moved tokens](images/claims_editing.png)

{of_weights(one, "editing")} Geometry: all centres moved to the right, features kept, and the
result compared, away from the edges, with the reconstruction moved by as many pixels: {rows}.
Texture: one token's features replaced by another photo's, geometry kept: {share:.0%} of the squared
change lies within the token's support and 16 pixels around it, {area:.0%} of the picture."""


def partition_section(one: Result, found: dict[str, Result], images: Path) -> str:
    """(a) and (b)."""
    values = one["psnr"]
    bars(images / "claims_partition.png", values)

    def gain(first: str, second: str) -> np.ndarray:
        return np.array(values[first]) - np.array(values[second])

    adaptive = gain("adaptive, refined", "uniform grid, refined")
    refined = gain("adaptive, refined", "adaptive, fixed")
    rows = "\n".join(f"| {name} | {mean_error(row)} |" for name, row in values.items())
    return f"""## (a) An adaptive partition beats a uniform grid: {judge(adaptive)}

## (b) Refined geometry beats fixed: {judge(refined)}

![PSNR of four models](images/claims_partition.png)

{of_training(one, "partition")} With refinement, adaptive minus uniform:
{mean_error(adaptive)} dB; with the adaptive partition, refined minus fixed: {mean_error(refined)}
dB (same seed, same crops).

| model | PSNR |
|---|---|
{rows}"""


def autoencoder_section(one: Result, found: dict[str, Result], images: Path) -> str:
    """(f)."""
    counts = sorted(map(int, one["psnr"]))
    lines = {"grid of latents": [one["psnr"][str(n)] for n in counts]}
    means = [float(np.mean(row)) for row in lines["grid of latents"]]
    text = "The tokenizer was not trained yet (`partition`)."
    verdict, points = "not measured", {}
    if "partition" in found:
        ours = found["partition"]["psnr"]["adaptive, refined"]
        needed = float(np.interp(np.mean(ours), means, counts))
        verdict = "holds" if needed > one["values"] else "does not hold"
        beyond = "more than " if np.mean(ours) > means[-1] else ""
        beyond = "less than " if np.mean(ours) < means[0] else beyond
        text = (
            f"{NUM_TOKENS} tokens have {one['values']} values and {mean_error(ours)} dB; a grid "
            f"reaches that with {beyond}{needed:.0f} values."
        )
        points = {"tokens": (one["values"], ours)}
    plot(images / "claims_autoencoder.png", counts, lines, "values", "PSNR, dB", True, points)
    rows = "\n".join(f"| {n} | {mean_error(one['psnr'][str(n)])} |" for n in counts)
    return f"""## (f) Fewer values than a grid of latents of the same quality: {verdict}

![PSNR against values](images/claims_autoencoder.png)

{of_training(one, "autoencoder")} The autoencoder has the tokenizer's decoder and an encoder of as
many levels. {text}

| values of the grid (8 × 8 × C) | PSNR |
|---|---|
{rows}"""


def of_weights(one: Result, name: str) -> str:
    """The command and weights of (c), (d) and (e), in words."""
    return (
        f"`--claims={name}`: `{one['checkpoint']}`, step {one['step']}, {one['photos']} held-out "
        "photos at 64 × 64."
    )


def of_training(one: Result, name: str) -> str:
    """The command and training of (a), (b) and (f), in words."""
    return (
        f"`--claims={name} --steps={one['steps']} --seeds={one['seeds']}`: every model alike, "
        f"{one['steps']} steps of {one['batch']} crops at {SIDE} × {SIDE}, {NUM_TOKENS} tokens "
        f"({one['values']} values), {one['seeds']} seed(s); ± is the standard error over seeds."
    )


def judge(gains: np.ndarray) -> str:
    """A verdict: there is a gain in every seed, in none, or in some."""
    if len(gains) < 2:
        return f"{gains[0]:+.2f} dB in one seed, which says little"
    return "holds" if (gains > 0).all() else "does not hold" if (gains < 0).all() else "not decided"


def mean_error(values: Any) -> str:
    """Mean and standard error."""
    values = np.asarray(values)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{values.mean():.2f}" + (f" ± {error:.2f}" if np.isfinite(error) else "")


def error_bars(rows: Any) -> tuple[list[float], list[float]]:
    """Means and standard errors of rows."""
    spread = [np.std(row, ddof=1) / np.sqrt(len(row)) if len(row) > 1 else 0.0 for row in rows]
    return [float(np.mean(row)) for row in rows], spread


def plot(
    path: Path,
    xs: Any,
    lines: dict[str, Any],
    xlabel: str,
    ylabel: str,
    log: bool = False,
    points: dict[str, Any] | None = None,
) -> None:
    """Lines with error bars."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for label, rows in lines.items():
        axes.errorbar(xs, *error_bars(rows), marker="o", capsize=3, label=label)
    for label, (x, row) in (points or {}).items():
        (mean,), (error,) = error_bars([row])
        axes.errorbar([x], [mean], [error], marker="s", capsize=3, linestyle="", label=label)
    if log:
        axes.set_xscale("log", base=2)
        axes.set_xticks(xs, list(map(str, xs)))
        axes.minorticks_off()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def bars(path: Path, values: dict[str, Any]) -> None:
    """One bar a model, seeds as dots."""
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    means, errors = error_bars(list(values.values()))
    axes.barh(list(values), means, xerr=errors, capsize=3, alpha=0.6)
    for place, row in enumerate(values.values()):
        axes.plot(row, [place] * len(row), "k.", markersize=4)
    low = min(min(row) for row in values.values())
    axes.set(xlabel="PSNR, dB", xlim=(low - 0.5, None))
    axes.invert_yaxis()
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    """Writes a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


MEASURE = {
    "partition": measure_partition,
    "tokens": measure_tokens,
    "focus": measure_focus,
    "editing": measure_editing,
    "autoencoder": measure_autoencoder,
}
TITLES = {
    "partition": "(a) an adaptive partition beats a uniform grid, (b) refined geometry beats fixed",
    "tokens": "(c) one set of weights, any number of tokens",
    "focus": "(d) a focus gains inside and pays outside",
    "editing": "(e) geometry and texture are edited independently",
    "autoencoder": "(f) fewer values than a grid of latents of the same quality",
}
SECTIONS = {
    "partition": partition_section,
    "tokens": tokens_section,
    "focus": focus_section,
    "editing": editing_section,
    "autoencoder": autoencoder_section,
}

if __name__ == "__main__":
    cli.run(main)
