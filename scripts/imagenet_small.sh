#!/usr/bin/env bash
# Runs the commands of docs/imagenet.md in small: the same blocks, other paths and sizes.
#
#   scripts/imagenet_small.sh [DIR]      # runs/imagenet_small by default; PYTHON names an interpreter
#
# The archives that it begins with are made of the photos that scikit-image ships.

set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:-runs/imagenet_small}
bin=$(dirname "$(command -v "${PYTHON:-python}")")
export PATH="$bin:$PATH"
export TARS=$work/tars DATA=$work/data RUNS=$work/runs
export SIDE=32 HELD_OUT=0.25 BATCH=4 COUNT=2 STEPS=4 INCEPTION=
export M128=configs/gpstoken_m128.py:smoke LAYOUT=configs/layout_tree.py:smoke SIT=configs/sit_xl.py:smoke

mkdir -p "$TARS"
python - "$TARS" <<'PYTHON'
import io
import sys
import tarfile
from pathlib import Path

from PIL import Image
from skimage import data


def add(archive, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def jpeg(photo, i):
    file = io.BytesIO()
    left, top = 23 * i % 100, 37 * i % 60
    Image.fromarray(photo[top : top + 180 + 9 * i % 40, left : left + 260]).save(file, "JPEG")
    return file.getvalue()


root = Path(sys.argv[1])
classes = {"n02123045": data.chelsea(), "n02930766": data.astronaut()}
with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as train:
    for name, photo in classes.items():
        inner = io.BytesIO()
        with tarfile.open(fileobj=inner, mode="w") as one:
            for i in range(12):
                add(one, f"{name}_{i}.JPEG", jpeg(photo, i))
        add(train, f"{name}.tar", inner.getvalue())
with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as val:
    for i in range(8):
        add(val, f"ILSVRC2012_val_{i:08d}.JPEG", jpeg(data.coffee(), i))
PYTHON

sed -n '/^```bash$/,/^```$/p' docs/imagenet.md | grep -v '^```' > "$work/commands.sh"
bash -euxo pipefail "$work/commands.sh"
echo "done: $RUNS/samples/grid.png, $RUNS/samples_eval"
