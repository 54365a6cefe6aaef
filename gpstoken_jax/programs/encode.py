"""Writes the tokens of a set of images to files.

    gpstoken encode --checkpoint=runs/m128 --data.folder=DIR --output=tokens/m128
    gpstoken encode ... --resolution=512x768 --num_tokens=64 --focus=0.3,0.2,0.4,0.5,1

The same command again goes on where it was interrupted. One process uses all cores and devices of a
machine; in an array of SLURM each task encodes its share. What it writes: see docs/tokens.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from absl import flags

from gpstoken_jax.programs import cli, image_flags

if not cli.asks_for_help():  # which needs no JAX
    import jax

    from gpstoken_jax import data
    from gpstoken_jax.data.crops import MirroredImages, RandomCrops
    from gpstoken_jax.data.resize import resize_of
    from gpstoken_jax.metrics.image import image_metrics
    from gpstoken_jax.model.tiles import tile_grid
    from gpstoken_jax.runtime import processes
    from gpstoken_jax.runtime.checkpoint import params_checksum
    from gpstoken_jax.runtime.progress import Progress
    from gpstoken_jax.runtime.text import say
    from gpstoken_jax.tokenizer import Tokenizer
    from gpstoken_jax.tokens.coded import TABLES, encode_rows
    from gpstoken_jax.tokens.format import open_shard
from gpstoken_jax.tokens import STORAGE, TokenWriter

MODEL = image_flags.define_checkpoint_flags()
IMAGES = image_flags.define_image_flags()
cli.define_process_flags()
OUTPUT = flags.DEFINE_string("output", None, "Where the tokens go.", required=True)
cli.allow_buckets("output")
STORAGE_FLAG = flags.DEFINE_enum(
    "storage", "float32", ["float32", "float16", "bfloat16"], "Features on disk."
)
BITS = flags.DEFINE_integer(
    "bits",
    None,
    "Of a value, 1 to 10: all tokens in 2^N levels, entropy-coded, instead of --storage; 6 cost "
    "little. Not for generators.",
    lower_bound=1,
    upper_bound=10,
)
PASSES = flags.DEFINE_integer(
    "passes",
    0,
    "Encode this many of the config's random crops of each image, not its centre: for generators.",
    lower_bound=0,
)
CROP_SCALE = flags.DEFINE_list(
    "crop_scale",
    None,
    "Smallest and largest share of the area for --passes; by default as trained.",
)
MIRROR = flags.DEFINE_bool(
    "mirror", False, "Encode each image and its mirror image: for generators, as SiT's authors."
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace tokens of other images or settings.")
VERIFY = flags.DEFINE_bool(
    "verify",
    False,
    "Know images by their content, not by size and date, and check what is there; from the first "
    "call on.",
)
SHARE = cli.define_share_flag()
SHARD_SIZE = flags.DEFINE_integer("shard_size", 1024, "Images a file.", lower_bound=1)


def main() -> None:
    """Encodes every image of a data set."""
    if BITS.value and STORAGE_FLAG.value != "float32":
        raise ValueError("--bits has all values in bits, features too: leave out --storage")
    tokenizer = MODEL.load()
    images = open_images(tokenizer)
    source, batch_size = images.source, images.batch_size
    check_sizes(batch_size)
    settings = describe(tokenizer, images)
    digest = source.fingerprint(content=VERIFY.value)
    share, shares = processes.share_of_work(SHARE.value)

    def open_writer(overwrite: bool) -> TokenWriter:
        return TokenWriter(
            OUTPUT.value,
            settings,
            len(source),
            storage=STORAGE_FLAG.value,
            bits=BITS.value,
            tiles=tile_grid(*images.size, tokenizer.image_size),
            shard_size=SHARD_SIZE.value,
            made_from={"images": digest, "split": IMAGES.split.value},
            inputs=data.data_paths(tokenizer.config.data),
            overwrite=overwrite,
            process_index=share,
            process_count=shares,
        )

    writer = processes.in_first(lambda: open_writer(OVERWRITE.value)) or open_writer(False)
    if VERIFY.value:
        writer.verify()
    todo = writer.unfinished()
    positions = [position for shard in todo for position in writer.shards[shard]]
    count = f"{images.tiles} x " * (images.tiles > 1) + f"{images.num_tokens} tokens"
    say(f"{MODEL.checkpoint.value} step {tokenizer.step}; {source.description}; {count}")
    if finished := len(writer.shards) - len(todo):
        print(f"{finished} of {len(writer.shards)} shards are there already")

    # ---- Every image once, shard by shard -------------------------------------------------------
    batches = images.batches(positions)
    notes = {}
    stream = encoded(batches, tokenizer, images, Progress(len(positions)), notes)
    with contextlib.closing(writer):
        for shard in todo:
            parts = [next(stream) for _ in range(-(-len(writer.shards[shard]) // batch_size))]
            rows, names, unreadable = join(parts, writer.shards[shard])
            reasons = {name: batches.unreadable.reasons.get(name, "") for name in unreadable}
            writer.write(shard, rows, names, reasons)

        # ---- The index, once every process is done ----------------------------------------------
        if not processes.is_primary_process():
            writer.close()
        processes.wait_for_all("shards written")
        if processes.is_primary_process():
            alone = shares > jax.process_count()  # of an array: others may not be done
            index = writer.finish_if_all_there(notes) if alone else writer.finish(notes)
            if index is None:
                print(f"share {share} of {shares} is written; the last one finishes the tokens")
            else:
                summarise(index, writer.directory)


def check_sizes(batch_size: int) -> None:
    """Shards of whole batches: so a resumed run encodes the batches of an uninterrupted one."""
    if SHARD_SIZE.value % batch_size:
        fitting = -(-SHARD_SIZE.value // batch_size) * batch_size
        raise ValueError(
            f"shard_size={SHARD_SIZE.value} is not a multiple of batch_size={batch_size}: "
            f"try --shard_size={fitting}"
        )


def open_images(tokenizer: Tokenizer) -> image_flags.Images:
    """The images of the flags, crops of them, or each of them with its mirror image."""
    images, config = IMAGES.open(tokenizer.config), tokenizer.config.data
    if MIRROR.value and PASSES.value:
        raise ValueError("--passes mirrors a random half of the crops: leave out --mirror")
    if MIRROR.value:
        return images.of(MirroredImages(images.source, images.size, config.resize))
    if not PASSES.value:
        return images
    if images.tiles > 1 or images.focus is not None:
        raise ValueError("--passes cuts crops of the model's size: no --resolution, no focus")
    if CROP_SCALE.value:
        low, high = map(float, CROP_SCALE.value)
        config.update(crop="random_resized", crop_scale=(low, high))
    side = tokenizer.config.model.image_size
    return images.of(RandomCrops(images.source, config, side, PASSES.value))


def describe(tokenizer: Tokenizer, images: image_flags.Images) -> dict:
    """The header: what the tokens depend on."""
    config, source = tokenizer.config, images.source
    resize = {
        "antialias": "bilinear, antialiased",
        "fast": "bilinear, antialiased, large JPEG files decoded at a fraction",
    }.get(resize_of(config.data), "as published")
    crop = f"short side resized ({resize}), then centre crop"
    copies = {"passes": PASSES.value} if PASSES.value else {}
    copies |= {"mirrored": True} if MIRROR.value else {}
    return {
        "checkpoint": MODEL.checkpoint.value,
        "step": tokenizer.step,
        "weights": MODEL.weights.value,
        "weights_crc32": params_checksum(tokenizer.params),
        "model": config.model.to_dict(),
        "partition": {**config.partition.to_dict(), "num_tokens": images.num_tokens},
        "data": source.description,
        "crop": "random crops, see data" if PASSES.value else crop,
        **copies,
        **images.describe_way(),
        "label_names": list(source.label_names),
    }


def encoded(
    batches: data.EvalBatches,
    tokenizer: Tokenizer,
    images: image_flags.Images,
    progress: Progress,
    notes: dict,
) -> Iterator[dict]:
    """Batches with tokens instead of images; what storage costs on the first goes into notes."""
    for batch in batches:
        pixels = batch.pop("image")
        tokens, layout = images.encode(tokenizer, pixels)
        batch |= {
            "geometry": np.asarray(tokens[..., :5]),
            "initial_geometry": layout,
            "features": np.asarray(tokens[..., 5:]),
        }
        if (STORAGE_FLAG.value != "float32" or BITS.value) and batch["mask"].any() and not notes:
            notes["storage_cost"] = measure_storage(tokenizer, pixels, batch)
        progress.advance(sum(name != "" for name in batch["name"]))
        yield batch


def join(parts: list[dict], positions: range) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """A shard's rows and names, without padding, and the names of what could not be read."""
    keys = ("geometry", "initial_geometry", "features", "label", "size", "mask")
    rows = {key: np.concatenate([part[key] for part in parts])[: len(positions)] for key in keys}
    names = [name for part in parts for name in part["name"]][: len(positions)]
    rows["position"] = np.array(positions)
    mask = rows.pop("mask")
    readable, unreadable = (
        [name for name, flag in zip(names, mask, strict=True) if flag == wanted]
        for wanted in (True, False)
    )
    return {key: values[mask] for key, values in rows.items()}, readable, unreadable


def measure_storage(tokenizer: Tokenizer, images: np.ndarray, batch: dict) -> dict:
    """Measures the cost of storing fewer bits, on one batch."""
    mask, storage = batch["mask"], STORAGE_FLAG.value
    geometry, features = (batch[key][mask] for key in ("geometry", "features"))

    def psnr(features: np.ndarray, geometry: np.ndarray = geometry) -> float:
        tokens = np.concatenate([geometry, features], axis=-1)
        made = tokenizer.decode(tokens, image_size=images.shape[1:3])
        return float(image_metrics(images[mask], made)["psnr"].mean())

    if BITS.value:
        storage = f"{BITS.value}-bit"
        tiles = tile_grid(*images.shape[1:3], tokenizer.image_size)
        _, tokens = encode_rows(geometry, features, BITS.value, tiles)
        stored = psnr(tokens[..., 5:], tokens[..., :5])
    else:
        stored = psnr(features.astype(STORAGE[storage]).astype(np.float32))
    cost = {"psnr_float32": psnr(features), "psnr_stored": stored}
    change = cost["psnr_stored"] - cost["psnr_float32"]
    print(
        f"{storage} storage: {cost['psnr_stored']:.4f} dB PSNR instead of "
        f"{cost['psnr_float32']:.4f} ({change:+.4f}) on the first {mask.sum()} image(s)"
    )
    return {**cost, "num_images": int(mask.sum())}


def measure_size(directory: Path, shards: Iterable[str]) -> dict[str, int]:
    """Bytes of the images' streams, of the tables of their codes, and of the shards' files."""
    size = {"streams": 0, "tables": 0, "files": 0}
    for name in shards:
        file, _ = open_shard(directory / name)
        size["streams"] += file.get_slice("streams").get_shape()[0]
        size["tables"] += sum(file.get_tensor(table).nbytes for table in TABLES)
        size["files"] += (directory / name).stat().st_size
    return size


def summarise(index: dict, directory: Path) -> None:
    """Prints what was written."""
    count, unreadable = index["num_tokenized"], index["unreadable"]
    print(f"{count} images in {len(index['shards'])} shard(s): {OUTPUT.value}")
    if BITS.value and count:
        size = measure_size(directory, index["shards"])
        print(
            f"{size['streams'] / count:.1f} bytes an image, tables of {size['tables']} bytes for "
            f"all; {size['files']} bytes on disk with names, labels and settings"
        )
    if unreadable:
        say(f"skipped {len(unreadable)} unreadable image(s): {', '.join(list(unreadable)[:5])}")
    print(
        f"images again: gpstoken decode --checkpoint={MODEL.checkpoint.value} "
        f"--tokens={OUTPUT.value} --output=DIR"
    )


if __name__ == "__main__":
    cli.run(main)
