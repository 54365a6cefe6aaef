"""One command for all programs: ``gpstoken NAME ...``, or ``python -m gpstoken_jax NAME ...``."""

import runpy
import sys

import gpstoken_jax
from gpstoken_jax.programs.cli import find_temporary_directory, print_help

PROGRAMS = {
    "demo": "show what tokens make of photos, and fine-tune on them",
    "train": "train a tokenizer, a generator or a layout network",
    "eval": "measure checkpoints, other methods' images, or samples",
    "report": "show a run's pictures, curves and config on one page",
    "encode": "turn a data set into token files",
    "decode": "turn token files into images",
    "reconstruct": "encode images and decode them, beside the originals",
    "generate": "draw new images of a class",
    "view": "open photos in a browser and take hold of their tokens",
    "convert": "load published PyTorch weights, or write them",
    "export": "write a tokenizer as StableHLO, for servers",
    "prepare_data": "pack a folder of images into array_record files",
    "prepare_layouts": "collect the layouts of tokenised images",
}


def main() -> int | None:
    """Runs the program named first on the command line with the rest as its flags."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "--helpfull", "help"):
        print_help(_overview())
        return 0
    if arguments[0] == "--version":
        print(gpstoken_jax.__version__)
        return 0
    name = arguments[0]
    if name not in PROGRAMS:
        print(f"error: there is no program {name!r}\n\n{_overview()}", file=sys.stderr)
        return 2
    sys.argv = [f"gpstoken {name}", *arguments[1:]]
    find_temporary_directory(sys.argv)  # libraries ask for one when they are imported
    runpy.run_module(f"gpstoken_jax.programs.{name}", run_name="__main__", alter_sys=True)
    return None


def _overview() -> str:
    rows = (f"  {name:<16} {purpose}" for name, purpose in PROGRAMS.items())
    usage = "usage: gpstoken NAME [--flag=value ...]      gpstoken NAME --help"
    return "\n".join([usage, "", *rows])


if __name__ == "__main__":
    sys.exit(main())
