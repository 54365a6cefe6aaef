"""Reports in a real browser: scripts run without errors, tables sort, sliders slide."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from gpstoken_jax.evaluation.measurement import Outcome
from gpstoken_jax.evaluation.pages import overview_page, report_page
from gpstoken_jax.evaluation.pictures import Figure, Photo, draw_photo
from gpstoken_jax.evaluation.results import CellResult

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium: reports are not opened (apt-get install chromium)"
)
# What a reader would do. Runs in the page after its own script; errors end up in the page's text.
ERRORS = "window.problems = []; window.onerror = (text) => { window.problems.push(text); };"
ACTIONS = """
const seen = {};
const table = document.querySelector("table.sortable");
const column = (i) => [...table.tBodies[0].rows].map((row) => row.cells[i].textContent);
const psnr = [...table.tHead.rows[0].cells].findIndex((th) => th.textContent.startsWith("PSNR"));
const button = table.tHead.rows[0].cells[psnr].querySelector("button");
button.click();
seen.ascending = column(psnr);
button.click();
seen.descending = column(psnr);
table.tHead.rows[0].cells[0].querySelector("button").click();
seen.names = column(0);
const frame = document.querySelector(".frame");
const slider = frame.querySelector("input");
slider.value = "25";
slider.dispatchEvent(new Event("input"));
seen.cut = getComputedStyle(frame.querySelector(".above")).clipPath;
const choice = document.querySelector(".compare select");
seen.choices = [...choice.options].map((option) => option.text);
choice.value = String(choice.options.length - 1);
choice.dispatchEvent(new Event("change"));
seen.above = frame.querySelector(".above").alt;
seen.broken = [...document.images].filter((image) => image.naturalWidth === 0).length;
seen.curves = document.querySelectorAll(".curves svg").length;
seen.problems = window.problems;
document.body.append(Object.assign(document.createElement("pre"), {
  id: "seen", textContent: JSON.stringify(seen),
}));
"""


def act_on(path, tmp_path):
    """The page's text after a reader's actions, and what the browser's console said."""
    page = path.read_text("utf-8")
    policy = re.search(r"script-src 'sha256-[^']+'", page)[0]
    page = page.replace(policy, "script-src 'unsafe-inline'")  # for what is added here
    page = page.replace("</head>", f"<script>{ERRORS}</script></head>")
    late = f"window.addEventListener('load', () => {{ {ACTIONS} }});"
    page = page.replace("</body>", f"<script>{late}</script></body>")
    path.with_name("acted.html").write_text(page, "utf-8")
    return dump(path.with_name("acted.html"), tmp_path)


def dump(path, tmp_path):
    """The page's text after its own scripts, and what the browser's console said."""
    process = subprocess.run(
        [
            BROWSER,
            *QUIET,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return process.stdout, [line for line in process.stderr.splitlines() if "CONSOLE" in line]


def seen_in(dom):
    return json.loads(html.unescape(re.search(r'<pre id="seen">(.*?)</pre>', dom, re.S)[1]))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of three methods, one of them without LPIPS."""
    methods = {
        "GPSToken": {"psnr": 23.4, "ssim": 0.7, "lpips": 0.25},
        "Bicubic": {"psnr": 9.8, "ssim": 0.6, "lpips": 0.3},
        "JPEG": {"psnr": 101.0, "ssim": 0.5},
    }
    rng = np.random.default_rng(0)
    image, made, baseline = rng.uniform(-1, 1, (3, 24, 32, 3)).astype(np.float32)
    geometry = np.array([[0.2, 0.3, 0.1, -0.5, 0], [0.1, 0.1, 0, 0.5, 0.5]], np.float32)
    outcomes = {
        "model": Outcome(made, methods["GPSToken"], {"initial": geometry, "refined": geometry}),
        "bicubic": Outcome(baseline, methods["Bicubic"], {}),
    }
    row = draw_photo('<b>"a".png', image, outcomes, maps=False)
    page = report_page(
        title="Test",
        methods=methods,
        protocol={},
        published=True,
        photos=[row],
        examples=[row._replace(tag="best")],
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_bytes(b"".join(page))
    return path


def test_a_report_opens_without_errors(report, tmp_path):
    """As it is, with the policy that lets only its own script run."""
    dom, console = dump(report, tmp_path)
    assert console == []
    assert dom.count('class="frame"') == 2 and dom.count("<button") >= 4


def test_tables_sort_and_sliders_slide(report, tmp_path):
    dom, console = act_on(report, tmp_path)
    seen = seen_in(dom)
    assert console == [] and seen["problems"] == []
    assert seen["ascending"] == ["9.80", "23.40", "101.00"]
    assert seen["descending"] == ["101.00", "23.40", "9.80"]
    assert seen["names"] == ["Bicubic", "GPSToken", "JPEG"]
    assert seen["cut"] == "inset(0px 0px 0px 25%)"
    assert seen["choices"] == ["Reconstruction", "Bicubic"]
    assert seen["above"] == 'Bicubic: <b>"a".png'
    assert seen["broken"] == 0


def test_an_overview_has_curves_and_sliders(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    figures = [Figure(text, picture, True, {}, True) for text in ("Original", "Reconstruction")]
    example = Photo("a.png", figures, tag="worst")

    def cell(run, tokens, psnr):
        protocol = {"checkpoint": run, "data_name": "x", "size": "8", "num_tokens": tokens}
        metrics = {"model": {"psnr": psnr, "lpips": psnr / 100}}
        return CellResult(
            f"{run}-{tokens}", "GPSToken", run, {"metrics": metrics, "protocol": protocol}
        )

    failed = CellResult("c", "c", error="no <config>")
    results = [cell("a", 32, 20.0), cell("a", 64, 21.0), cell("b", 32, 22.0), failed]
    path = tmp_path / "report.html"
    path.write_bytes(b"".join(overview_page(results, {"a-32": [example]})))
    dom, console = act_on(path, tmp_path)
    seen = seen_in(dom)
    assert console == [] and seen["problems"] == []
    assert seen["curves"] == 2 and seen["broken"] == 0
    assert seen["ascending"] == ["20.00", "21.00", "22.00"]
    assert "no &lt;config&gt;" in dom


def test_an_error_would_be_noticed(report, tmp_path):
    """The check itself: a page whose script breaks, or that another script got into."""
    page = report.read_text("utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(page.replace("</body>", "<script>alert(1)</script></body>"), "utf-8")
    _, console = dump(broken, tmp_path)
    assert any("Content Security Policy" in line for line in console)
    broken.write_text(page.replace('"use strict";', '"use strict"; nothing.here();'), "utf-8")
    _, console = dump(broken, tmp_path)
    assert console
