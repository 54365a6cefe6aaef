"""Writes the photos of `make demo-generate`: one a class, its left part to learn from.

python scripts/demo_classes.py --output=DIR
"""

import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpstoken_jax.data.demo_classes import write_demo_classes
from gpstoken_jax.programs import cli

OUTPUT = flags.DEFINE_string("output", None, "Where the folders train/ and val/ go.", required=True)


def main() -> None:
    """Writes the photos, a folder a class."""
    paths = write_demo_classes(OUTPUT.value)
    classes = sorted({path.parent.name for path in paths})
    print(f"{len(classes)} classes in {OUTPUT.value}: {', '.join(classes)}")


if __name__ == "__main__":
    cli.run(main)
