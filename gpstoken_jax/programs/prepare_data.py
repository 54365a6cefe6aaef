"""Makes a data set for training and evaluation from a directory of images.

    gpstoken prepare_data --demo --output data/demo
    gpstoken prepare_data --folder ~/photos --output data/photos [--val_fraction 0.1]
    gpstoken prepare_data --folder ~/imagenet --output data/imagenet256 --short_side 256

Sub-folders train/ and val/ become splits; the sub-folders below (or at the top) become classes.
Files that cannot be used are skipped and named in OUTPUT/report.json. The same command again goes
on where it was interrupted, and does nothing when nothing has changed. In an array of SLURM each
task writes its share, and the last one finishes the data set.
"""

from __future__ import annotations

import shlex

from absl import flags, logging

from gpstoken_jax.programs import cli

if not cli.asks_for_help():  # which needs no JAX
    from gpstoken_jax.data import demo, prepare, sources
    from gpstoken_jax.data.loader import available_cores
    from gpstoken_jax.data.shrinking import Shrinking
    from gpstoken_jax.runtime import processes
    from gpstoken_jax.runtime.progress import Progress

_FOLDER = flags.DEFINE_string("folder", None, "Directory of images, with or without sub-folders.")
_TARS = flags.DEFINE_string("tars", None, "Or tar shards, as data.tars of a config.")
_PARQUET = flags.DEFINE_string("parquet", None, "Or parquet shards, as data.parquet of a config.")
_DEMO = flags.DEFINE_bool("demo", False, "Use the photos that scikit-image and scikit-learn ship.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory to write the data set to.", required=True)
_VAL_FRACTION = flags.DEFINE_float(
    "val_fraction",
    0.1,
    "Share of the images held out as split 'val', where the folder has no val sub-folder.",
    lower_bound=0.0,
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the data set of other files.")
_VERIFY = flags.DEFINE_bool(
    "verify", False, "Know files by their content, not by size and date; from the first call on."
)
_SHORT_SIDE = flags.DEFINE_integer(
    "short_side",
    None,
    "Store images with a longer short side shrunken to it: read three times as fast.",
    lower_bound=1,
)
_QUALITY = flags.DEFINE_integer(
    "quality",
    None,
    "Of the JPEG files of shrunken images, 95 by default; 0 is PNG.",
    lower_bound=0,
    upper_bound=100,
)
_RESIZE = flags.DEFINE_enum(
    "resize",
    None,
    ["published", "antialias", "fast"],
    "How images are shrunken; antialias by default.",
)
_WORKERS = flags.DEFINE_integer(
    "workers", 0, "Processes that read and write; 0 is one a core.", lower_bound=0
)
_SHARE = cli.define_share_flag()
cli.allow_buckets("folder", "tars", "parquet", "output")


def main() -> None:
    """Writes the data set that the flags name."""
    places = {"folder": _FOLDER.value, "tars": _TARS.value, "parquet": _PARQUET.value}
    given = {kind: place for kind, place in places.items() if place}
    if len(given) + _DEMO.value != 1:
        raise ValueError("give either --folder DIR or --demo, or --tars or --parquet")
    logging.set_verbosity(logging.ERROR)  # what TFDS logs is of no use here
    if _DEMO.value:
        listing = demo.list_demo_photos()
    else:
        listing = sources.list_images(*given.popitem(), _VAL_FRACTION.value)
    print(f"Preparing {len(listing.files)} images from {listing.root}", flush=True)
    share = processes.share_of_array(_SHARE.value)
    report = prepare.prepare(
        listing,
        _OUTPUT.value,
        _OVERWRITE.value,
        shrinking=_shrinking(),
        verify=_VERIFY.value,
        workers=_WORKERS.value or available_cores(),
        share=share,
        progress=Progress(len(listing.files) // share[1]),
    )
    if report is None:
        print(f"share {share[0]} of {share[1]} is written; the last one finishes the data set")
        return
    if report["reused"]:
        print("Nothing has changed since it was prepared.")
    print(prepare.format_summary(report, _OUTPUT.value))
    print(
        "Next: python train.py --config=configs/tiny.py "
        f"--config.data.tfds_dir={shlex.quote(_OUTPUT.value)} --workdir=runs/tiny"
    )


def _shrinking() -> Shrinking | None:
    if _SHORT_SIDE.value is None:
        if _QUALITY.value is not None or _RESIZE.value is not None:
            raise ValueError("--quality and --resize are of images that --short_side shrinks")
        return None
    asked = {"quality": _QUALITY.value, "resize": _RESIZE.value}
    given = {name: value for name, value in asked.items() if value is not None}
    return Shrinking(_SHORT_SIDE.value, **given)


if __name__ == "__main__":
    cli.run(main)
