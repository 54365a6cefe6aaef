"""New pictures in the viewer: classes, seeds, and layouts of a photo or of the page."""

import io

import jax
import numpy as np
import pytest
from PIL import Image
from skimage import data as photos
from starlette.testclient import TestClient

from gpstoken_jax import Generator
from gpstoken_jax.configs import sit_tiny
from gpstoken_jax.generation.layouts import Layouts, open_layouts, write_layouts
from gpstoken_jax.generation.sit import create_sit, init_params
from gpstoken_jax.viewer import Engine, create_app
from gpstoken_jax.viewer.wire import pack, unpack
from tests.viewer.page import Page
from tests.viewer.server import Server

pytestmark = pytest.mark.slow

L, CHANNELS, CLASSES = 8, 21, ("cat", "dog")


@pytest.fixture(scope="module")
def app(engine, tmp_path_factory):
    config, rng = sit_tiny.get_config("smoke"), np.random.default_rng(0)
    config.model.update(num_tokens=L, channels=CHANNELS, num_classes=2)
    config.label_names = CLASSES
    config.statistics.update(mean=(0.0,) * CHANNELS, std=(0.02,) * 5 + (1.0,) * 16)
    config.sample.update(method="ode_euler", steps=2)
    model = create_sit(config.model)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    params = jax.tree.map(lambda s: 0.2 * rng.standard_normal(s.shape, np.float32), shapes)
    geometry = rng.uniform(0.1, 0.8, (10, L, 5)).astype(np.float32)
    path = tmp_path_factory.mktemp("layouts") / "layouts.safetensors"
    write_layouts(path, Layouts(geometry, np.arange(10, dtype=np.int32) % 2, CLASSES, 32))
    generator = Generator(model, params, config, 3, open_layouts(path, num_tokens=L))
    making = Engine(engine.tokenizer, generator, engine.sizes)
    making.warm_up = lambda stop: None
    making.warmth = engine.warmth
    return create_app(making)


@pytest.fixture(scope="module")
def client(app):
    return TestClient(app, "http://127.0.0.1:8470", raise_server_exceptions=False)


def make(client, body=b"", **query):
    query = {"class": 0, "seed": 1, "guidance": 1.5} | query
    return client.post("/api/generate", params=query, content=body)


def test_classes_and_seeds(client):
    made = [unpack(make(client, **q).content) for q in ({}, {}, {"seed": 2}, {"class": 1})]
    assert made[0]["tokens"].shape == (L, CHANNELS) and made[0]["picture"].shape == (32, 32, 3)
    np.testing.assert_array_equal(made[0]["tokens"], made[1]["tokens"])
    for other in made[2:]:
        assert np.abs(other["tokens"] - made[0]["tokens"]).max() > 1e-3


def test_places_of_a_photo(client):
    buffer = io.BytesIO()
    Image.fromarray(photos.astronaut()[:64, 128:192]).save(buffer, "PNG")
    answer = client.post("/api/photo", content=buffer.getvalue())
    key = answer.content.split(b'"key":"')[1][:32].decode()
    layout = unpack(client.post(f"/api/layout?photo={key}").content)["layout"]
    assert layout.shape == (L, 5)
    made = unpack(make(client, pack({"layout": layout})).content)
    np.testing.assert_array_equal(made["layout"], layout)


@pytest.mark.parametrize(
    "query, body",
    [
        ({"class": 7}, b""),
        ({"class": -1}, b""),
        ({"seed": "x"}, b""),
        ({"guidance": "nan"}, b""),
        ({"guidance": 1e9}, b""),
        ({}, pack({"layout": np.zeros((3, 5), np.float32)})),
        ({}, pack({"layout": np.full((L, 5), np.inf, np.float32)})),
        ({}, b"noise"),
    ],
)
def test_mistakes_are_one_line(client, query, body):
    answer = make(client, body, **query)
    assert answer.status_code == 400 and answer.json()["error"]


def test_without_a_generator_there_is_none(engine):
    client = TestClient(create_app(engine), "http://127.0.0.1:8470")
    assert client.get("/api/model").json()["generator"] is None
    assert make(client).status_code == 404


def test_in_the_page(app, browser):
    with Server(app) as server:
        view = Page(browser.new_page(), server)
        view.page.get_by_role("button", name="Make", exact=True).click()
        view.settle()
        first, _ = view.step()
        assert first.shape == (L, CHANNELS)
        view.page.select_option("#gen-class", label="dog")
        view.page.select_option("#gen-layout", "now")
        view.page.get_by_role("button", name="Make", exact=True).click()
        view.page.wait_for_timeout(200)
        view.settle()
        layout = view.page.evaluate("[...gpstoken.studio.step.layout]")
        np.testing.assert_array_equal(np.float32(layout).reshape(L, 5), first[:, :5])
        assert view.page.locator("#psnr").text_content() == "–"
        assert view.problems == []
        view.page.close()
