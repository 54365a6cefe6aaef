"""Makes a data set for training and evaluation from a directory of images.

    gpstoken prepare_data --demo --output data/demo
    gpstoken prepare_data --folder ~/photos --output data/photos [--val_fraction 0.1]

Sub-folders train/ and val/ become splits; the sub-folders below (or at the top) become classes.
Files that cannot be used are skipped and named in OUTPUT/report.json. The same command again goes
on where it was interrupted, and does nothing when nothing has changed.
"""

from __future__ import annotations

import shlex

from absl import flags, logging

from gpstoken_jax.programs import cli

if not cli.asks_for_help():  # which needs no JAX
    from gpstoken_jax.data import demo, folder, prepare
    from gpstoken_jax.runtime.progress import Progress

_FOLDER = flags.DEFINE_string("folder", None, "Directory of images, with or without sub-folders.")
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


def main() -> None:
    """Writes the data set that the flags name."""
    if bool(_FOLDER.value) == _DEMO.value:
        raise ValueError("give either --folder DIR or --demo")
    logging.set_verbosity(logging.ERROR)  # what TFDS logs is of no use here
    if _DEMO.value:
        listing = demo.list_demo_photos()
    else:
        listing = folder.list_folder(_FOLDER.value, _VAL_FRACTION.value)
    print(f"Preparing {len(listing.files)} images from {listing.root}", flush=True)
    report = prepare.prepare(
        listing,
        _OUTPUT.value,
        _OVERWRITE.value,
        verify=_VERIFY.value,
        progress=Progress(len(listing.files)),
    )
    if report["reused"]:
        print("Nothing has changed since it was prepared.")
    print(prepare.format_summary(report, _OUTPUT.value))
    print(
        "Next: python train.py --config=configs/tiny.py "
        f"--config.data.tfds_dir={shlex.quote(_OUTPUT.value)} --workdir=runs/tiny"
    )


if __name__ == "__main__":
    cli.run(main)
