"""Measure what can be seen at the seams of tiles, by the way in which they are decoded.

    python -m tests.bench_seams --photos=DIR [--checkpoint=photos-small] [--tiles=4]

Prints the PSNR of each way, and the steps across seams beside those half a tile away, in levels of
255, in places where the photo is flat. A step is what two neighbouring means of 4 pixels differ by
beyond what both sides go on to; flat is a standard deviation of 1.5 levels over 20 pixels.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from gpstoken_jax import Tokenizer, data
from gpstoken_jax.data import folder
from gpstoken_jax.runtime.progress import Progress

WIDTH, AROUND, FLAT = 4, 10, 1.5


def steps(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Steps of [H, W, 3] between rows, above each of the rows ``places``: [n, W, 3]."""
    calm = gaussian_filter1d(image, 2, axis=1)
    a, b, c, d = (
        np.stack([calm[p + k * WIDTH : p + (k + 1) * WIDTH].mean(0) for p in places])
        for k in (-2, -1, 0, 1)
    )
    return np.abs(c - b - (b - a + d - c) / 2)


def flat(photo: np.ndarray, places: np.ndarray) -> np.ndarray:
    """True where the photo is flat around the rows ``places``: [n, W, 3]."""
    calm = gaussian_filter1d(photo, 2, axis=1)
    return np.stack([calm[p - AROUND : p + AROUND].std(0) for p in places]) < FLAT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True, help="a directory of photos")
    parser.add_argument("--checkpoint", default="photos-small")
    parser.add_argument("--tiles", type=int, default=4, help="along either side")
    options = parser.parse_args()
    tokenizer = Tokenizer.from_pretrained(options.checkpoint)
    side = tokenizer.image_size
    size = options.tiles * side
    seams = np.arange(side, size, side)
    places = {"seams": seams, "elsewhere": seams - side // 2}
    found = {way: {"psnr": [], "seams": [], "elsewhere": []} for way in ("tiles", "blended")}
    found["the photos"] = {"psnr": [np.inf], "seams": [], "elsewhere": []}
    files = folder.list_folder(Path(options.photos)).files
    progress = Progress(len(files), unit="photos")
    for file in files:
        with Image.open(file.path) as opened:
            photo = opened.convert("RGB")
        photo = data.resize_and_crop(photo, size, resize="antialias").astype(np.float32)
        tokens = tokenizer.encode(photo / np.float32(127.5) - 1)
        for way, of in found.items():
            image = photo
            if way in ("tiles", "blended"):
                image = 127.5 * (np.clip(tokenizer.decode(tokens, high_resolution=way), -1, 1) + 1)
                of["psnr"].append(10 * np.log10(255**2 / np.mean((image - photo) ** 2)))
            for pair in ((photo, image), (photo.swapaxes(0, 1), image.swapaxes(0, 1))):
                for name, rows in places.items():
                    of[name].append(steps(pair[1], rows)[flat(pair[0], rows)])
        progress.advance(1)
    for way, of in found.items():
        at, other = (np.concatenate(of[name]) for name in places)
        print(
            f"{way}: {np.mean(of['psnr']):.2f} dB; steps at seams {at.mean():.2f} levels, 95 % "
            f"below {np.quantile(at, 0.95):.1f}; elsewhere {other.mean():.2f} and "
            f"{np.quantile(other, 0.95):.1f}"
        )


if __name__ == "__main__":
    main()
