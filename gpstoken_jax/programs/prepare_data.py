"""Makes a data set for training and evaluation from a directory of images.

    gpstoken prepare_data --demo --output data/demo
    gpstoken prepare_data --folder ~/photos --output data/photos [--val_fraction 0.1]

Sub-folders train/ and val/ become splits; the sub-folders below (or at the top) become classes.
Files that cannot be used are skipped and named in OUTPUT/report.json. Running the same command
again does nothing when nothing has changed.
"""

import sys

from absl import app, flags, logging

from gpstoken_jax.data import demo, folder, prepare

_FOLDER = flags.DEFINE_string("folder", None, "Directory of images, with or without sub-folders.")
_DEMO = flags.DEFINE_bool("demo", False, "Use the photos that scikit-image and scikit-learn ship.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory to write the data set to.", required=True)
_VAL_FRACTION = flags.DEFINE_float(
    "val_fraction",
    0.1,
    "Share of the images held out as split 'val', where the folder has no val sub-folder.",
    lower_bound=0.0,
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the data set in --output.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}: give the directory as --folder DIR")
    if bool(_FOLDER.value) == _DEMO.value:
        raise app.UsageError("give either --folder DIR or --demo")
    logging.set_verbosity(logging.WARNING)  # what TFDS logs is of no use here
    try:
        if _DEMO.value:
            listing = demo.list_demo_photos()
        else:
            listing = folder.list_folder(_FOLDER.value, _VAL_FRACTION.value)
        print(f"Preparing {len(listing.files)} images from {listing.root}", flush=True)
        report = prepare.prepare(listing, _OUTPUT.value, _OVERWRITE.value, sys.stdout)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"prepare_data.py: {error}")
    if report["reused"]:
        print("Nothing has changed since it was prepared.")
    print(prepare.format_summary(report, _OUTPUT.value))
    print(
        "Next: python train.py --config=configs/tiny.py "
        f"--config.data.tfds_dir={_OUTPUT.value} --workdir=runs/tiny"
    )


if __name__ == "__main__":
    app.run(main)
