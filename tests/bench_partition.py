"""Time the partition against a plain OpenCV/NumPy form of the published algorithm, in one process.

    python -m tests.bench_partition [--images 8] [--rounds 5] [--agreement DIR]

Prints milliseconds an image (the best of several rounds, the forms taking turns) on photos that
scikit-image and scikit-learn ship. With --agreement it counts instead the images of a folder,
centre crops, whose regions are the same in both forms. Needs opencv-python-headless for the
comparison, which the project itself does not: without it the comparison is left out and said so.
"""

import argparse
import importlib.util
import os
import time

import jax
import numpy as np
from skimage import data
from sklearn.datasets import load_sample_images

from gpstoken_jax.configs import common
from gpstoken_jax.data import eval_batches, open_source
from gpstoken_jax.partition.device import partition_jit
from gpstoken_jax.partition.geometry import regions_to_boxes
from gpstoken_jax.partition.host import partition
from gpstoken_jax.partition.images import partition_images, to_grey

SETTINGS = [(64, 32), (128, 64), (256, 128), (256, 256)]  # side, tokens


def opencv_complexity(grey: np.ndarray, weight: float = 2.5) -> float:
    import cv2

    small = cv2.resize((grey + 1) / 2, (64, 64), interpolation=cv2.INTER_LINEAR)
    along = [
        cv2.Sobel(small, cv2.CV_64F, *order, ksize=3, borderType=cv2.BORDER_REPLICATE)
        for order in ((1, 0), (0, 1))
    ]
    counts, _ = np.histogram(np.sqrt(along[0] ** 2 + along[1] ** 2), bins=512, range=(-5.5, 5.5))
    p = counts / (counts.sum() + 1e-5)
    entropy = -np.sum(p * np.log2(p + 1e-10))
    return entropy**weight * grey.size


def opencv_partition(grey: np.ndarray, num_tokens: int) -> np.ndarray:
    """Boxes of power-of-two images, by sorting the list of regions in every round."""
    height, width = grey.shape
    regions = [(0.0, 0, 0, height, width)]  # -complexity, top, left, height, width

    def scored(top, left, h, w):
        return -opencv_complexity(grey[top : top + h, left : left + w]), top, left, h, w

    while len(regions) < num_tokens:
        regions.sort(key=lambda region: region[0])
        place = next(i for i, region in enumerate(regions) if max(region[3:]) > 9)
        _, y, x, h, w = regions.pop(place)
        ways = []
        if h >= w:
            ways.append([scored(y, x, h // 2, w), scored(y + h // 2, x, h - h // 2, w)])
        if w >= h:
            ways.append([scored(y, x, h, w // 2), scored(y, x + w // 2, h, w - w // 2)])
        regions += min(ways, key=lambda way: min(-half[0] for half in way))
    corners = [(x, y, x + w - 1, y + h - 1) for _, y, x, h, w in regions]
    return regions_to_boxes(np.array(corners), height, width)


def crops(side: int, count: int) -> np.ndarray:
    photos = [data.astronaut(), data.coffee(), data.chelsea(), *load_sample_images().images]
    rng = np.random.default_rng(0)
    out = []
    for i in range(count):
        rgb = (photos[i % len(photos)] / 127.5 - 1).astype(np.float32)
        grey = 0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2]
        top, left = (rng.integers(0, n - side + 1) for n in grey.shape)
        out.append(grey[top : top + side, left : left + side])
    return np.stack(out)


def agreement(folder: str, side: int, tokens: int) -> tuple[int, int]:
    """Images of a folder whose set of regions is OpenCV's, and images in all."""
    section = common.data()
    section.folder = folder
    compiled = jax.jit(lambda images: partition_images(images, tokens)[1])
    same = total = 0
    for batch in eval_batches(open_source(section, "all"), section, side, 8):
        boxes = np.asarray(compiled(batch["image"]))
        grey = np.asarray(to_grey(batch["image"])).clip(-1, 1)
        for i in np.flatnonzero(batch["mask"]):
            same += set(map(tuple, boxes[i])) == set(map(tuple, opencv_partition(grey[i], tokens)))
            total += 1
    return same, total


def best_times(forms: dict, rounds: int) -> dict[str, float]:
    """Shortest time of each form in seconds; they take turns, so that noise falls on all alike."""
    times = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            begin = time.perf_counter()
            form()
            times[name].append(time.perf_counter() - begin)
    return {name: min(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--agreement", metavar="DIR", help="a folder of photos")
    args = parser.parse_args()
    opencv = importlib.util.find_spec("cv2") is not None
    if not opencv:
        print("skipped the OpenCV form: no module cv2 (pip install opencv-python-headless)")
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores")
    if args.agreement and opencv:
        for side, tokens in SETTINGS:
            same, total = agreement(args.agreement, side, tokens)
            print(f"{side} x {side}, {tokens} tokens: {same} of {total} images", flush=True)
        return
    print("ms an image (times faster than OpenCV)")
    for side, tokens in SETTINGS:
        images = crops(side, args.images)
        compiled = jax.jit(lambda grey, tokens=tokens: partition_jit(grey, tokens))
        jax.block_until_ready(compiled(images))
        forms = {
            "partition_jit": lambda: jax.block_until_ready(compiled(images)),  # noqa: B023
            "partition": lambda: partition(images, tokens),  # noqa: B023
        }
        if opencv:
            forms["opencv"] = lambda: [opencv_partition(one, tokens) for one in images]  # noqa: B023
            same = np.array_equal(partition(images, tokens)[1], forms["opencv"]())
        times = best_times(forms, args.rounds)
        line = [f"{side} x {side}, {tokens:3} tokens, batch {args.images}:"]
        for name, seconds in times.items():
            ratio = f" ({times['opencv'] / seconds:.1f} x)" if opencv else ""
            line.append(f"{name} {seconds / args.images * 1e3:.2f}{ratio}")
        if opencv:
            line.append("same boxes" if same else "NOT the same boxes")
        print("  ".join(line), flush=True)


if __name__ == "__main__":
    main()
