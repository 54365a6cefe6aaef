"""What anybody could do with the same number of stored values: a smaller copy of the image."""

import numpy as np
from jaxtyping import Float
from PIL import Image


def baseline_size(height: int, width: int, num_values: int) -> tuple[int, int]:
    """Height and width of the largest copy that holds at most `num_values` colour values.

    The aspect is kept to the nearest pixel, and the copy is never larger than the image.
    Raises ValueError when not even one pixel (three values) fits.
    """
    if num_values < 3:
        raise ValueError(f"One RGB pixel is 3 values; {num_values} hold none.")
    for rows in range(height, 0, -1):
        columns = max(1, round(rows * width / height))
        if rows * columns * 3 <= num_values:
            return rows, columns
    return 1, min(width, num_values // 3)  # one row of a very wide image


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic resize of float [H, W, 3], channel by channel: Pillow's, antialiased when smaller."""
    planes = [
        Image.fromarray(np.ascontiguousarray(image[..., c])).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for c in range(image.shape[-1])
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def bicubic_baseline(
    images: Float[np.ndarray, "b h w 3"], num_values: int
) -> Float[np.ndarray, "b h w 3"]:
    """Each image shrunk to at most `num_values` stored numbers and enlarged again, both bicubic.

    images: float32 in [-1, 1]; so is the result (clipped where the filter overshoots).
    num_values: what the tokens of one image hold, L (5 + C). The small copy keeps full float32
    values, as the tokens do, so the baseline pays nothing for rounding to 8 bits.
    Raises ValueError for fewer than three values.
    """
    images = np.asarray(images, np.float32)
    height, width = images.shape[1:3]
    small = baseline_size(height, width, num_values)
    copies = [_resize(_resize(image, *small), height, width) for image in images]
    return np.clip(np.stack(copies), -1, 1)
