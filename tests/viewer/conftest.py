"""A server in a thread, on random weights of a small model."""

import dataclasses
import shutil

import pytest

from gpstoken_jax import Tokenizer
from gpstoken_jax.viewer import Engine, create_app
from gpstoken_jax.viewer.sizes import Sizes
from tests.viewer.server import Server

BROWSER_ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
)  # fmt: skip


@pytest.fixture(scope="session")
def engine(random_run):
    """Few sizes, as each is compiled: square photos of 1 and 2 x 2 tiles."""
    tokenizer = Tokenizer.from_pretrained(random_run)
    sizes = dataclasses.replace(
        Sizes.of(tokenizer.config), stops=(4, 8, 16), shapes=((1, 1),), finer=(1, 2)
    )
    return Engine(tokenizer, sizes=sizes)


@pytest.fixture(scope="session")
def server(engine, random_run):
    with Server(create_app(engine, name=str(random_run))) as running:
        yield running


@pytest.fixture(scope="session")
def browser():
    """The system's Chromium, headless."""
    playwright = pytest.importorskip(
        "playwright.sync_api",
        reason="no Playwright: the viewer is not opened (pip install playwright)",
    )
    names = ("chromium", "chromium-browser", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium: the viewer is not opened (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(BROWSER_ARGUMENTS))
        yield browser
        browser.close()
