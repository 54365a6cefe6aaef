"""The demo's report."""

import re

import numpy as np
import pytest

from gpstoken_jax.data.demo_crops import Crops
from gpstoken_jax.programs import demo_page
from gpstoken_jax.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def made(random_run):
    tokenizer = Tokenizer.from_pretrained(random_run)
    side = tokenizer.image_size
    images = np.random.default_rng(0).uniform(-1, 1, (9, side, side, 3)).astype(np.float32)
    shown = Crops([f"<{i}>.png" for i in range(9)], images)
    return shown, demo_page.reconstruct(tokenizer, images, images[:4])


def test_every_method_is_measured(made):
    shown, found = made
    assert list(found.metrics) == [demo_page.MODEL, "bicubic", "jpeg", "webp"]
    for metrics in found.metrics.values():
        assert all(np.isfinite(values).all() and len(values) == 9 for values in metrics.values())
    error = np.square(np.clip(found.images["bicubic"], -1, 1) - shown.images).mean((1, 2, 3))
    np.testing.assert_allclose(
        found.metrics["bicubic"]["psnr"], 10 * np.log10(4 / error), atol=0.05
    )
    assert found.metrics["webp"]["bytes"].mean() <= 1.2 * found.means(demo_page.MODEL)["bytes"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("config.ema.decay was 0.999 and is now 0.98", ""),
        ("runs/a has begun already: config.init.source is not looked at, and stays", ""),
        ("SIGTERM: saving after this step; once more stops at once", ""),
        ("first step after 12s", "first step after 12s"),
        (
            "step 20/100000  loss 0.0100  15.0 images/s  ETA 14h51m",
            "step 20  loss 0.0100  15.0 images/s  37 s left",
        ),
    ],
)
def test_the_screen_has_the_demos_time_and_not_the_runs(line, shown):
    assert demo_page.shorten(line, 37.2) == shown


def test_the_sentence_says_above_and_below():
    def one(**psnr):
        metrics = {n: {"psnr": np.array([v]), "bytes": np.array([400.0])} for n, v in psnr.items()}
        return demo_page.Showcase(32, None, None, {}, metrics)

    before = one(Tokens=25, bicubic=23, jpeg=24, webp=29)
    after = one(Tokens=26, bicubic=23, jpeg=24, webp=29)
    assert demo_page.headline(before, None, 0) == (
        "32 tokens in 400 bytes: 2.0 dB above bicubic of as many values, 1.0 dB above JPEG and "
        "4.0 dB below WebP of as many bytes."
    )
    assert demo_page.headline(before, after, 120).endswith("changed it by +1.00 dB.")
    assert "3.0 dB above bicubic" in demo_page.headline(before, after, 120)


@pytest.mark.parametrize("tuned", [True, False])
def test_pictures_come_before_tables(made, tuned):
    shown, found = made
    page = b"".join(demo_page.page(shown, found, found if tuned else None, 5, own=True)).decode()
    body = page[page.index("<main>") :]
    assert body.index("<figure>") < body.index("<table")
    assert body.count("<figure>") == demo_page.MAX_ROWS * (7 if tuned else 6)
    assert "&lt;0&gt;.png" in body and "<0>" not in body
    assert len(re.findall(r"data:image/(?:png|webp);base64,[\w+/=]+", body)) == body.count("<img")
    assert ("Tokens, fine-tuned" in body) == tuned
    assert ("5 steps of fine-tuning" in body) == tuned
