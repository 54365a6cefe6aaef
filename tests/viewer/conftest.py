"""A server in a thread, on random weights of a small model, and a browser."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from gpstoken_jax import Generator, Tokenizer
from gpstoken_jax.configs import sit_tiny
from gpstoken_jax.generation.layouts import Layouts, open_layouts, write_layouts
from gpstoken_jax.generation.sit import create_sit, init_params
from gpstoken_jax.viewer import Engine, create_app
from gpstoken_jax.viewer.shelf import fill_shelf
from gpstoken_jax.viewer.sizes import Sizes
from tests.viewer.server import Server

BROWSER_ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
)  # fmt: skip
TOKENS, CLASSES = 8, ("cat", "dog")  # of the generator


@pytest.fixture(scope="session")
def tokenizer(random_run):
    """Pictures of several tiles are decoded as by the weights that ship."""
    tokenizer = Tokenizer.from_pretrained(random_run)
    config = tokenizer.config.copy_and_resolve_references()
    config.eval.high_resolution = "blended"
    return dataclasses.replace(tokenizer, config=config)


@pytest.fixture(scope="session")
def generator(tmp_path_factory):
    config, rng = sit_tiny.get_config("smoke"), np.random.default_rng(0)
    config.model.update(num_tokens=TOKENS, channels=21, num_classes=2)
    config.label_names = CLASSES
    config.statistics.update(mean=(0.0,) * 21, std=(0.02,) * 5 + (1.0,) * 16)
    config.sample.update(method="ode_euler", steps=2)
    model = create_sit(config.model)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    params = jax.tree.map(lambda s: 0.2 * rng.standard_normal(s.shape, np.float32), shapes)
    geometry = rng.uniform(0.1, 0.8, (10, TOKENS, 5)).astype(np.float32)
    path = tmp_path_factory.mktemp("layouts") / "layouts.safetensors"
    write_layouts(path, Layouts(geometry, np.arange(10, dtype=np.int32) % 2, CLASSES, 32))
    return Generator(model, params, config, 3, open_layouts(path, num_tokens=TOKENS))


@pytest.fixture(scope="session")
def engine(tokenizer, generator):
    """Few sizes, as each is compiled: square photos of 1 and 2 x 2 tiles."""
    sizes = dataclasses.replace(
        Sizes.of(tokenizer.config), stops=(8, 16), shapes=((1, 1),), finer=(1, 2)
    )
    return Engine(tokenizer, generator, sizes)


@pytest.fixture(scope="module")
def quiet_engine(engine):
    """Compiles what is asked for, nothing beforehand."""
    before, engine.warm_up = engine.warm_up, lambda stop: None
    yield engine
    engine.warm_up = before


@pytest.fixture(scope="session")
def checkpoint(tokenizer, tmp_path_factory):
    """A directory of the server's weights, for programs."""
    path = tmp_path_factory.mktemp("weights") / "small"
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def server(engine, checkpoint):
    with Server(create_app(engine, fill_shelf([])[:2], name=str(checkpoint))) as running:
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
