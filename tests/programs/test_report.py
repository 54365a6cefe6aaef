"""The page of a run: what stands on it, of whatever name, beside whichever other run."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from gpstoken_jax.configs import tiny
from gpstoken_jax.runtime.run_directory import RunDirectory, write_config
from gpstoken_jax.training.metric_log import MetricLog

HOSTILE = "<script>alert(1)<!--&"  # no slash: it is the name of a directory


class Page(HTMLParser):
    """Texts, tags and attributes of a page, as a browser reads it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def make_run(root, *, steps=300, rate=1e-3, label=""):
    run = RunDirectory(root)
    root.mkdir()
    config = tiny.get_config("smoke")
    config.optimizer.learning_rate = rate
    config.data.folder = label or None
    write_config(run, config)
    log = MetricLog(run, step=0)
    for step in range(1, steps + 1):
        log.scalars(step, {"loss": 1 / step, "grad_norm": np.nan if step == 5 else 2.0})
    log.scalars(steps, {"val_psnr": 23.5})
    for step in range(10, 200, 10):
        log.image(step, "held out", np.full((8, 8, 3), step, np.uint8))
    log.close()
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return make_run(root / HOSTILE, label=HOSTILE), make_run(root / "b", steps=3, rate=2e-3)


def test_a_page_has_pictures_curves_and_config(program, runs, tmp_path):
    run, _ = runs
    (run.samples / "190.png").write_bytes(b"half of one")
    said = program("report", str(run.root), "--samples=4")
    assert "190.png is left out" in said
    page = Page((run.root / "report.html").read_text())
    assert page.of("h1") and f"Training of {HOSTILE}" in page.texts
    curves = [svg["aria-label"] for svg in page.of("svg") if "aria-label" in svg]
    assert len(curves) == 3 and any(c.startswith("val_psnr: held out") for c in curves)
    assert {"23.5", "300"} <= set(page.texts)
    pictures = page.of("img")
    assert pictures[0]["alt"].split(":")[0] == "Step 130"  # the newest whole one
    assert all(p["src"].startswith("data:image/") for p in pictures)
    assert "model.encoder.depth" in page.texts and "Where the configs differ" not in page.texts


def test_a_page_loads_and_runs_nothing_of_others(program, runs, tmp_path):
    program("report", str(runs[0].root), f"--output={tmp_path / 'a.html'}")
    text = (tmp_path / "a.html").read_text()
    page = Page(text)
    (policy,) = [m["content"] for m in page.of("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert len(page.of("script")) == 1 and not page.of("link")  # its own, whose hash is allowed
    assert not re.search(r"https?://", text) and not any("onclick" in a for _, a in page.tags)


def test_another_run_stands_beside(program, runs, tmp_path):
    mine, other = runs
    output = tmp_path / "b.html"
    program("report", str(mine.root), f"--against={other.root}", f"--output={output}")
    page = Page(output.read_text())
    assert {"optimizer.learning_rate", "0.001", "0.002", "data.folder", HOSTILE} <= set(page.texts)
    assert len([p for p in page.of("polyline") if p.get("points", "").count(",") > 2]) >= 4
    program("report", str(mine.root), f"--against={mine.root}", f"--output={output}")
    assert "Nowhere." in output.read_text()


def test_runs_are_called_by_their_directories_however_they_are_given(program, runs, monkeypatch):
    mine, other = runs
    monkeypatch.chdir(other.root)
    program("report", ".", "--against=../b", "--output=../c.html")  # the same run twice
    page = Page((mine.root.parent / "c.html").read_text())
    assert "Training of b" in page.texts and {"b", "../b"} <= set(page.texts)
    monkeypatch.chdir(mine.root.parent)
    program("report", "b", "--against=b", "--output=c.html")
    texts = set(Page(Path("c.html").read_text()).texts)
    assert {"b", "b (the other)"} <= texts


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{empty}"], "has no figures in metrics.jsonl"),
        (["{run}", "{run}"], "one run must be named, not 2"),
        ([], "one run must be named, not 0"),
        (["{run}", "--output={empty}/no/a.html"], "there is no directory"),
        (["{run}", "--output={run}/config.json"], "is there and is no report"),
        (["{run}", "--output={run}"], "is there and is no report"),
        (["{run}", "--against={empty}"], "has no figures"),
        (["{run}", "--against={empty}/no"], "there is no directory .*/no"),
        (["{empty}/no"], "there is no directory .*/no"),
    ],
)
def test_mistakes_are_said_and_nothing_is_replaced(program, runs, tmp_path, arguments, said):
    names = {"run": runs[1].root, "empty": tmp_path}
    before = runs[1].config.read_bytes()
    with pytest.raises((ValueError, OSError), match=said):
        program("report", *(argument.format(**names) for argument in arguments))
    assert runs[1].config.read_bytes() == before and not list(tmp_path.iterdir())
