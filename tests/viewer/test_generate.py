"""New pictures in the viewer: classes, seeds, and layouts of a photo or of the page."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos
from starlette.testclient import TestClient

from gpstoken_jax.viewer import Engine, create_app
from gpstoken_jax.viewer.wire import pack, unpack

L = 8  # tokens that the generator draws, see conftest.py


@pytest.fixture(scope="module")
def client(quiet_engine):
    return TestClient(
        create_app(quiet_engine), "http://127.0.0.1:8470", raise_server_exceptions=False
    )


def make(client, body=b"", **query):
    query = {"class": 0, "seed": 1, "guidance": 1.5} | query
    return client.post("/api/generate", params=query, content=body)


def test_classes_and_seeds(client):
    made = [unpack(make(client, **q).content) for q in ({}, {}, {"seed": 2}, {"class": 1})]
    assert made[0]["tokens"].shape == (L, 21) and made[0]["picture"].shape == (32, 32, 3)
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


def test_without_a_generator_there_is_none(tokenizer):
    client = TestClient(create_app(Engine(tokenizer)), "http://127.0.0.1:8470")
    assert client.get("/api/model").json()["generator"] is None
    assert make(client).status_code == 404
