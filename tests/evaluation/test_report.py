"""The report stands alone, shows exactly what it was given, and appears whole or not at all."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from gpstoken_jax.evaluation.measurement import Outcome
from gpstoken_jax.evaluation.pages import FOCUS_NOTE, MAP_NOTE, report_page
from gpstoken_jax.evaluation.pictures import draw_photo
from gpstoken_jax.runtime.files import open_new
from gpstoken_jax.tokens.visualize import draw_error, draw_gaussians, to_uint8, token_colours

MODEL = {"lpips": 0.25, "psnr": 23.456, "ssim": 0.7004}
BASELINE = {"lpips": 0.20, "psnr": 21.2, "ssim": 0.7}
SUMMARY = {
    "title": "Tiny & <small>",
    "methods": {"GPSToken": MODEL, "Bicubic": BASELINE},
    "protocol": {"Images": 2, "Rounding": "to 8 bits", "Commit": "<none>"},
    "lead": "64 tokens",
}


def write_report(path, summary, photos):
    """Writes a page as the run does."""
    path.parent.mkdir(exist_ok=True)
    page = report_page(**summary, photos=photos)
    with open_new(path) as file:
        file.writelines(page)
    return path


class _Page(HTMLParser):
    """Collects text and images, and checks that every element is closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.images, self.attributes, self.words = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.attributes += attributes
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def photo():
    rng = np.random.default_rng(0)
    image, reconstruction, baseline = rng.uniform(-1, 1, (3, 24, 32, 3)).astype(np.float32)
    geometry = np.array([[0.2, 0.3, 0.1, -0.5, 0], [0.1, 0.1, 0, 0.5, 0.5]], np.float32)
    return image, reconstruction, baseline, geometry, geometry[:, [1, 0, 2, 4, 3]]


def _outcomes(photo, metrics=MODEL, baseline_metrics=BASELINE, **tokens):
    _, reconstruction, baseline, initial, refined = photo
    tokens = {"initial": initial, "refined": refined, **tokens}
    return {
        "model": Outcome(reconstruction, metrics, tokens),
        "bicubic": Outcome(baseline, baseline_metrics, {}),
    }


def _row(name, photo, *metrics):
    return draw_photo(name, photo[0], _outcomes(photo, *metrics), maps=False)


def _read(path) -> _Page:
    return _Page(path.read_text(encoding="utf-8"))


def _decode(image: dict) -> np.ndarray:
    head, data = image["src"].split(",")
    assert head in ("data:image/png;base64", "data:image/webp;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))


def test_nothing_is_loaded_from_elsewhere(tmp_path, photo):
    path = write_report(tmp_path / "report.html", SUMMARY, [_row("a.png", photo)])
    page = _read(path)
    assert {name for name, _ in page.attributes}.isdisjoint({"href", "srcset", "onclick", "onload"})
    assert all(value.startswith("data:image/") for name, value in page.attributes if name == "src")
    html = re.sub(r"base64,[^\"]*", "", path.read_text(encoding="utf-8"))
    assert "http" not in html.replace("http-equiv", "")
    assert "url(" not in html and "@import" not in html and "fetch" not in html


def test_only_its_own_script_may_run(tmp_path, photo):
    html = write_report(tmp_path / "r.html", SUMMARY, [_row("a.png", photo)]).read_text("utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    of_style = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; " in html
    assert f"style-src 'sha256-{of_style}'; script-src 'sha256-{digest}'\"" in html
    assert "unsafe" not in html and " style=" not in re.sub('base64,[^"]*', "", html)


def test_pictures_are_the_ones_given(tmp_path, photo):
    """Photos and errors to the bit; drawings, which are compressed, closely."""
    image, reconstruction, baseline, initial, refined = photo
    path = write_report(tmp_path / "report.html", SUMMARY, [_row("a.png", photo)])
    original, start, end, made, compared, error = map(_decode, _read(path).images)
    np.testing.assert_array_equal(original, to_uint8(image))
    np.testing.assert_array_equal(made, to_uint8(reconstruction))
    np.testing.assert_array_equal(compared, to_uint8(baseline))
    np.testing.assert_array_equal(error, draw_error(image, reconstruction))
    colours = token_colours(initial)
    for shown, geometry in ((start, initial), (end, refined)):
        drawn = draw_gaussians(image, geometry, colours=colours)
        assert shown.shape == drawn.shape and np.abs(shown - drawn.astype(float)).mean() < 8


def test_captions_and_descriptions(tmp_path, photo):
    page = _read(write_report(tmp_path / "r.html", SUMMARY, [_row("a.png", photo)]))
    kinds = (
        "Original",
        "Initial Gaussians",
        "Refined Gaussians",
        "Reconstruction",
        "Bicubic",
        "Error",
    )
    assert [image["alt"] for image in page.images] == [f"{kind}: a.png" for kind in kinds]
    assert "Reconstruction PSNR 23.46 dB · SSIM 0.700 · LPIPS 0.250" in page.text
    assert "Bicubic PSNR 21.20 dB · SSIM 0.700 · LPIPS 0.200" in page.text


def test_a_focus_and_maps_add_figures(tmp_path, photo):
    image, reconstruction, _, initial, refined = photo
    inside = np.zeros(image.shape[:2], bool)
    inside[:8, :8] = True
    local = {"psnr": 20.0, "psnr_inside": 18.0, "psnr_outside": 25.5}
    feature_map = np.random.default_rng(0).normal(size=(6, 8, 4))
    outcomes = _outcomes(photo, feature_map=feature_map)
    before = Outcome(reconstruction, local, {"initial": initial, "refined": refined})
    row = draw_photo("a.png", image, outcomes | {"unfocused": before}, inside=inside)
    summary = SUMMARY | {"notes": (MAP_NOTE, FOCUS_NOTE)}
    page = _read(write_report(tmp_path / "r.html", summary, [row]))
    kinds = [image["alt"].removesuffix(": a.png") for image in page.images[6:]]
    assert kinds == [figure.caption for figure in row.figures[6:]]
    assert kinds[3:] == ["Token density", "Feature map"]
    text = "PSNR 20.00 dB · PSNR in the focus 18.00 dB · PSNR outside it 25.50 dB"
    assert f"Reconstruction without the focus {text}" in page.text
    assert FOCUS_NOTE in page.text and MAP_NOTE in page.text
    plain = _row("a.png", photo)
    for outlined, before in zip(row.figures[1:3], plain.figures[1:3], strict=True):
        changed = (outlined.picture != before.picture).any(-1)
        height, width = changed.shape
        assert changed[: height // 3, : width // 4].any()
        assert not changed[height // 3 :].any()


def test_small_pictures_show_their_pixels(tmp_path, photo):
    large = np.zeros((200, 200, 3), np.float32)
    rows = [_row("small", photo), _row("large", (large, large, large, *photo[3:]))]
    images = _read(write_report(tmp_path / "r.html", SUMMARY, rows)).images
    shown = {image["alt"]: image.get("class") for image in images}
    assert shown["Original: small"] == "pixels" and shown["Original: large"] is None
    assert (images[0]["width"], images[0]["height"]) == ("32", "24")


def test_names_are_escaped(tmp_path, photo):
    name = """<img src=x onerror="alert('1')"> & "co".png"""
    path = write_report(tmp_path / "r.html", SUMMARY, [_row(name, photo)])
    page = _read(path)
    assert name in page.text and len(page.images) == 6
    assert page.images[0]["alt"] == f"Original: {name}"
    assert "Tiny & <small>" in page.text and "Commit <none>" in page.text


def test_the_summary_comes_first_and_in_one_order(tmp_path, photo):
    text = _read(write_report(tmp_path / "r.html", SUMMARY, [_row("a.png", photo)])).text
    table = "Method PSNR ↑ SSIM ↑ LPIPS ↓ GPSToken 23.46 0.700 0.250 Bicubic 21.20 0.700 0.200"
    assert text.index(table) < text.index("Images 2 Rounding to 8 bits") < text.index("a.png")


def test_better_and_worse_are_told_apart(tmp_path):
    """A lower LPIPS is better; the model's is higher here. PSNR is better when higher."""
    html = write_report(tmp_path / "r.html", SUMMARY, []).read_text(encoding="utf-8")
    assert '<span class="good">+2.26 dB</span> against Bicubic' in html
    assert '<span class="bad">+0.050</span> against Bicubic' in html
    assert '<td class="best">23.46</td>' in html and '<td class="best">0.200</td>' in html


def test_a_model_alone_and_metrics_left_out(tmp_path, photo):
    alone = {"title": "Alone", "methods": {"GPSToken": {"psnr": 20.0}}, "protocol": {}}
    text = _read(
        write_report(tmp_path / "a.html", alone, [_row("a", photo, {"psnr": 20.0}, {})])
    ).text
    assert "against" not in text and "LPIPS" not in text
    partial = SUMMARY | {"methods": {"A": MODEL, "B": {"psnr": 30.0}}}
    text = _read(write_report(tmp_path / "b.html", partial, [])).text
    assert "B 30.00 – –" in text and "−6.54 dB against B" in text


def test_a_failure_leaves_the_older_report(tmp_path, photo):
    def rows():
        yield _row("fine", photo)
        raise RuntimeError("the evaluation broke")

    path = write_report(tmp_path / "eval" / "report.html", SUMMARY, [_row("old", photo)])
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="broke"):
        write_report(path, SUMMARY, rows())
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]
    write_report(path, SUMMARY, [_row("new", photo)])
    assert path.read_bytes() != before


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one method"):
        write_report(tmp_path / "r.html", SUMMARY | {"methods": {}}, [])
    assert list(tmp_path.iterdir()) == []
