"""The viewer's server: what it answers, what it refuses, and that nothing takes it down."""

import asyncio
import dataclasses
import io
import json
import math
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image
from skimage import data as photos
from starlette.testclient import TestClient

from gpstoken_jax.configs import photos_small
from gpstoken_jax.data.resize import resize_and_crop
from gpstoken_jax.tokens import open_tokens
from gpstoken_jax.viewer import Access, create_app
from gpstoken_jax.viewer import photos as viewer_photos
from gpstoken_jax.viewer.allotment import allot
from gpstoken_jax.viewer.decoder import Decoder, pad_tiles
from gpstoken_jax.viewer.shelf import fill_shelf
from gpstoken_jax.viewer.sizes import Sizes
from gpstoken_jax.viewer.warmth import Warmth
from gpstoken_jax.viewer.wire import pack, unpack

LOCAL = "http://127.0.0.1:8470"
TOKEN = "a-token-that-nobody-guesses"


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PHOTO = png(photos.astronaut()[:128, 128:256])


@pytest.fixture(scope="module")
def client(quiet_engine):
    return TestClient(
        create_app(quiet_engine, fill_shelf([])[:2]), LOCAL, raise_server_exceptions=False
    )


@pytest.fixture(scope="module")
def key(client):
    return words(client.post("/api/photo", content=PHOTO))["key"]


@pytest.fixture(scope="module")
def encoded(client, key):
    return client.post(f"/api/encode?photo={key}&tokens=8").content


@pytest.fixture(scope="module")
def encoded_large(client, key):
    """Tokens of 2 x 2 tiles."""
    return unpack(client.post(f"/api/encode?photo={key}&tokens=32").content)


def words(answer):
    length = int.from_bytes(answer.content[:8], "little")

    return json.loads(answer.content[8 : 8 + length])["__metadata__"]


# ---- What it answers ----------------------------------------------------------------------------


def test_a_photo_becomes_the_tokens_of_the_tokenizer(client, key, encoded, engine):
    made = unpack(encoded)
    picture = resize_and_crop(photos.astronaut()[:128, 128:256], 32, resize="antialias")
    nowhere = np.zeros((32, 32), np.float32)
    expected, layout = engine.tokenizer.encode_with_layout(picture, num_tokens=8, focus=nowhere)
    np.testing.assert_allclose(made["tokens"], expected, atol=1e-5)
    np.testing.assert_array_equal(made["layout"], layout)
    again = engine.tokenizer.decode(expected, uint8=True)
    assert np.abs(made["picture"].astype(int) - again).max() <= 1
    message = pack({name: made[name] for name in ("tokens", "tile")})
    decoded = client.post("/api/decode?rows=1&cols=1", content=message)
    np.testing.assert_array_equal(unpack(decoded.content)["picture"], made["picture"])


def test_larger_pictures_are_those_of_the_tokenizer(encoded_large, engine):
    made = encoded_large
    picture = resize_and_crop(photos.astronaut()[:128, 128:256], 64, resize="antialias")
    expected = engine.tokenizer.encode(picture, num_tokens=8)
    np.testing.assert_allclose(made["tokens"], expected, atol=1e-5)
    np.testing.assert_array_equal(made["tile"], np.repeat(np.arange(4), 8))


@pytest.mark.parametrize("way", ["blended", "tiles", "aligned"])
def test_pictures_are_decoded_as_by_the_tokenizer(engine, way):
    """Whole or from parts; tiles need not be equally full."""
    config = engine.tokenizer.config.copy_and_resolve_references()
    config.eval.high_resolution = way
    tokenizer = dataclasses.replace(engine.tokenizer, config=config)
    rng = np.random.default_rng(0)
    tile = np.repeat(np.arange(4), [8, 3, 0, 5])
    tokens = rng.uniform(-0.5, 0.5, (16, 21)).astype(np.float32)
    tokens[:, :2] = np.abs(tokens[:, :2]) + 0.1
    rows = pad_tiles(tokens, tile, (2, 2), 8)
    expected = tokenizer.decode(rows, image_size=(64, 64), uint8=True)
    with ThreadPoolExecutor(2) as pool:
        made = Decoder(tokenizer, engine.sizes, Warmth(), pool).decode(tokens, tile, (2, 2))
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_only_what_an_edit_touches_is_decoded_again(engine, encoded_large, monkeypatch):
    """Of 2 x 2 tiles and the five windows over their seams: a tile and its three windows."""
    tokens, tile = encoded_large["tokens"].copy(), encoded_large["tile"]
    engine.decode(tokens, tile, (2, 2))
    decoder, parts = engine._decoder, []
    decode_part = decoder._decode_part
    monkeypatch.setattr(decoder, "_decode_part", lambda p: parts.append(p) or decode_part(p))
    before = engine.decode(tokens, tile, (2, 2))
    assert not parts
    tokens[0, 3] += 0.03
    after = engine.decode(tokens, tile, (2, 2))
    assert len(parts) == 4
    changed = (after != before).any(axis=-1)
    assert changed.any() and not changed[48:, 48:].any()


def test_paint_draws_tokens_between_tiles(client, key):
    focus = np.zeros((16, 16), np.int8)
    focus[:8, :8] = 127
    ask = f"/api/encode?photo={key}&tokens=40"
    made = unpack(client.post(ask, content=pack({"focus": focus})).content)
    assert np.bincount(made["tile"]).tolist() == [16, 8, 8, 8]


def test_tokens_as_a_file(client, encoded, tmp_path):
    """Also with tokens missing from some tiles, which are filled up with what draws nothing."""
    made = unpack(encoded)
    tokens, layout = made["tokens"].repeat(2, 0), made["layout"].repeat(2, 0)
    tile = np.array([0] * 9 + [1] * 4 + [3] * 3, np.uint16)
    message = pack({"tokens": tokens, "layout": layout, "tile": tile})
    answer = client.post("/api/tokens?rows=2&cols=2&name=caf%C3%A9", content=message)
    path = tmp_path / "a.safetensors"
    path.write_bytes(answer.content)
    (example,) = saved = open_tokens(path)
    assert example.name == "café" and example.size == (64, 64)
    np.testing.assert_array_equal(example.tokens, pad_tiles(tokens, tile, (2, 2), 9))
    assert saved.header["image_size"] == [64, 64]
    assert (example.tokens.reshape(4, 9, -1)[2, :, 5:] == 0).all()


def test_the_shelf(client):
    model = client.get("/api/model").json()
    assert model["shelf"][0]["name"] == "chelsea.png"
    assert client.get("/api/shelf/0/thumbnail").headers["content-type"] == "image/jpeg"
    assert unpack(client.get("/api/shelf/1").content)["picture"].shape[2] == 3
    assert client.get("/api/shelf/2").status_code == 404


def test_photos_of_the_command_line_come_first(tmp_path):
    path = tmp_path / "mine.png"
    path.write_bytes(PHOTO)
    mine, other = fill_shelf([path])[:2]
    assert (mine.name, mine.given, other.given) == ("mine.png", True, False)
    path.write_bytes(PHOTO[:100])
    for wrong in (path, tmp_path / "gone.png", tmp_path):
        with pytest.raises((OSError, ValueError), match=wrong.name):
            fill_shelf([wrong])


@pytest.mark.parametrize("shape", [(100, 100), (200, 300), (300, 200), (100, 250), (900, 300)])
def test_every_photo_can_have_8_to_1024_tokens(shape):
    """With the weights that ship: never more than asked for, and nearly as many, painted or not."""
    config = photos_small.get_config()
    sizes = Sizes.of(config)
    ladder = sizes.ladder(*shape)
    assert sizes.range(ladder) == (8, 1024)
    rng = np.random.default_rng(0)
    for wanted in (*range(8, 64), *range(64, 1025, 31), 1024):
        tiles = math.prod(sizes.grid_for(ladder, wanted))
        nothing, some = np.zeros(tiles), rng.uniform(-1, 1, tiles)
        plain = allot(rng.random(tiles), nothing, wanted, sizes.stops)
        assert 2 / 3 * wanted < plain.sum() <= wanted
        painted = allot(rng.random(tiles), some, wanted, sizes.stops)
        assert painted.sum() <= wanted and painted.min() >= min(4, wanted // tiles) // 2


# ---- What it refuses ----------------------------------------------------------------------------


def bmp_of(width, height):
    """A header that promises pixels which do not come."""
    head = b"BM" + bytes(8) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    head += width.to_bytes(4, "little") + height.to_bytes(4, "little") + b"\1\0\x18\0"
    return head + bytes(24)


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "empty file"),
        (b"no image at all", "not an image"),
        (PHOTO[: len(PHOTO) // 2], "damaged"),
        (bmp_of(8000, 8000), "too large.*50,000,000"),
        (bmp_of(20000, 10), "too narrow"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>", "image"),
    ],
    ids=["empty", "text", "cut", "huge", "narrow", "svg"],
)
def test_bad_uploads_are_one_line(client, data, said):
    answer = client.post("/api/photo", content=data)
    assert answer.status_code == 400
    assert "\n" not in answer.text

    assert re.search(said, answer.json()["error"]), answer.text
    assert client.get("/").status_code == 200


def test_uploads_have_a_size(client, monkeypatch):
    monkeypatch.setattr("gpstoken_jax.viewer.app.MAX_BYTES", len(PHOTO) - 1)
    assert client.post("/api/photo", content=PHOTO).status_code == 413
    # Without saying how long it is:
    parts = (PHOTO[i : i + 100] for i in range(0, len(PHOTO), 100))
    assert client.post("/api/photo", content=parts).status_code == 413
    lies = client.post("/api/photo", content=PHOTO, headers={"content-length": "-5"})
    assert lies.status_code == 413
    assert viewer_photos.MAX_BYTES < 1 << 26


def mutated_messages(message):
    made = unpack(message)
    tokens, tile = made["tokens"], made["tile"]
    yield "nothing", b""
    yield "noise", bytes(range(256))
    yield "cut", message[: len(message) // 2]
    yield "long header", (1 << 60).to_bytes(8, "little") + b"{}"
    yield "no tile", pack({"tokens": tokens})
    yield "no tokens", pack({"tile": tile})
    yield "float64", pack({"tokens": tokens.astype(np.float64), "tile": tile})
    yield "features", pack({"tokens": tokens[:, :-1], "tile": tile})
    yield "flat", pack({"tokens": tokens.ravel(), "tile": tile})
    yield "tiles", pack({"tokens": tokens, "tile": tile[:-1]})
    yield "tile 9", pack({"tokens": tokens, "tile": tile + np.uint16(9)})
    yield "nan", pack({"tokens": tokens * np.float32(np.nan), "tile": tile})
    yield "many", pack({"tokens": tokens.repeat(200, 0), "tile": tile.repeat(200)})


def test_bad_tokens_are_one_line(client, encoded):
    for name, message in mutated_messages(encoded):
        for path in ("decode", "tokens"):
            answer = client.post(f"/api/{path}?rows=1&cols=1", content=message)
            assert answer.status_code == 400, name
            assert answer.json()["error"], name
    for grid in ("rows=9&cols=9", "rows=0&cols=1", "rows=1", "rows=1e9&cols=1", "rows=²&cols=1"):
        assert client.post(f"/api/decode?{grid}", content=encoded).status_code == 400, grid
    extreme = unpack(encoded)
    extreme["tokens"][:, :5] = [3e38, 1e-38, 5, -3e38, 3e38]
    message = pack({name: extreme[name] for name in ("tokens", "tile")})
    assert client.post("/api/decode?rows=1&cols=1", content=message).status_code == 200


@pytest.mark.parametrize(
    "query, body, status",
    [
        ("photo=KEY&tokens=0", b"", 400),
        ("photo=KEY&tokens=99999", b"", 400),
        ("photo=KEY&tokens=-8", b"", 400),
        ("photo=KEY&tokens=eight", b"", 400),
        ("photo=KEY", b"", 400),
        ("photo=../../etc/passwd&tokens=8", b"", 404),
        ("tokens=8", b"", 404),
        ("photo=KEY&tokens=8", b"noise", 400),
        ("photo=KEY&tokens=8", pack({"focus": np.zeros((2, 9999), np.int8)}), 400),
        ("photo=KEY&tokens=8", pack({"focus": np.zeros((2, 2), np.float32)}), 400),
        ("photo=KEY&tokens=8", pack({"focus": np.zeros((0, 2), np.int8)}), 400),
    ],
)
def test_bad_questions(client, key, query, body, status):
    answer = client.post(f"/api/encode?{query.replace('KEY', key)}", content=body)
    assert answer.status_code == status and answer.json()["error"]


def test_nothing_is_read_from_disk_or_kept_there(client, key, encoded):
    """Every question that needs no file of the shelf, after the first of its kind."""
    opened, watching = [], False

    def watch(event, arguments):
        if watching and event in ("open", "os.mkdir", "os.rename", "os.remove", "shutil.copyfile"):
            opened.append(arguments)

    sys.addaudithook(watch)  # for good: it does nothing outside this test
    made = unpack(encoded)
    whole = pack({name: made[name] for name in ("tokens", "tile", "layout")})
    for watching in (False, True):  # noqa: B007 - read by the hook
        for path, body in (
            ("photo", PHOTO),
            (f"encode?photo={key}&tokens=8", b""),
            ("decode?rows=1&cols=1", pack({name: made[name] for name in ("tokens", "tile")})),
            ("tokens?rows=1&cols=1&name=/etc/passwd", whole),
            ("photo", b"no image"),
        ):
            assert client.post(f"/api/{path}", content=body).status_code in (200, 400)
        for path in ("/", "/static/page.js", "/api/model", "/api/shelf/0/thumbnail", "/etc/passwd"):
            assert client.get(path).status_code in (200, 404)
    assert not opened
    client.get("/api/shelf/1")
    watching = False
    assert opened


def test_what_is_kept_is_bounded(quiet_engine, monkeypatch):
    """Of three photos two are kept; the first is asked for again."""
    monkeypatch.setattr("gpstoken_jax.viewer.app._PHOTO_BYTES", 2 * (32**2 + 64**2) * 3)
    small = TestClient(create_app(quiet_engine), LOCAL, raise_server_exceptions=False)
    keys = [
        words(small.post("/api/photo", content=png(photos.astronaut()[i : i + 64, :64])))["key"]
        for i in (0, 64, 128)
    ]
    found = [small.post(f"/api/encode?photo={key}&tokens=8").status_code for key in keys]
    assert found == [404, 200, 200]


# ---- Who may talk to it --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200),
        ({"host": "localhost:8470"}, 200),
        ({"host": "[::1]:8470"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:8470"}, 403),
        ({"host": "192.168.0.7:8470"}, 403),
        ({"host": ""}, 403),
        ({"origin": LOCAL}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_hosts_and_origins(client, headers, status):
    answer = client.get("/api/model", headers=headers)
    assert answer.status_code == status
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    posted = client.post("/api/photo", content=b"", headers=headers)
    assert posted.status_code == (403 if status == 403 else 400)


def test_other_machines_need_the_token(quiet_engine):
    app = create_app(quiet_engine, access=Access("0.0.0.0", TOKEN))
    outside = TestClient(app, "http://192.168.0.7:8470", follow_redirects=False)
    for path in ("/", "/api/model", "/static/page.js", "/?token=wrong", "/?token="):
        assert outside.get(path).status_code == 403, path
    assert outside.get("/", headers={"cookie": "gpstoken_viewer=wrong"}).status_code == 403
    named = outside.get("/", params={"token": TOKEN}, headers={"host": "evil.example"})
    assert named.status_code == 403
    outside.cookies.clear()
    opened = outside.get("/", params={"token": TOKEN})
    assert opened.status_code == 303 and opened.headers["location"] == "/"
    cookie = opened.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert outside.get("/api/model").status_code == 200
    assert outside.get("/api/model", headers={"origin": "http://evil.example"}).status_code == 403


# ---- Under load ----------------------------------------------------------------------------------


def test_fifty_at_once_are_served_or_refused(server, key, encoded):
    """Some of them broken, some that hang up; the next one is served as if nothing had been."""
    address = server.address
    message = pack({name: unpack(encoded)[name] for name in ("tokens", "tile")})

    async def ask_all():
        async with httpx.AsyncClient(base_url=address, timeout=120) as client:
            kinds = [
                lambda: client.post("/api/decode?rows=1&cols=1", content=message),
                lambda: client.post("/api/photo", content=PHOTO),
                lambda: client.post("/api/photo", content=b"broken"),
                lambda: client.post("/api/decode?rows=1&cols=1", content=message[:50]),
                lambda: client.get("/api/model"),
            ]
            return await asyncio.gather(*(kinds[i % 5]() for i in range(50)))

    for _ in range(5):  # hang up in the middle of a body
        with socket.create_connection(server.listener.getsockname()) as raw:
            raw.sendall(b"POST /api/photo HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            raw.sendall(b"Content-Length: 99999\r\n\r\nabc")
    answers = asyncio.run(ask_all())
    statuses = {answer.status_code for answer in answers}
    assert statuses <= {200, 400, 503}
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 503)
    assert all(answer.status_code == 200 for answer in answers[4::5])
    assert any(answer.status_code == 200 for answer in answers[0::5])
    assert httpx.get(address).status_code == 200
    again = httpx.post(f"{address}/api/decode?rows=1&cols=1", content=message, timeout=120)
    assert again.status_code == 200


def test_a_failure_inside_is_one_line_and_not_the_end(client, encoded, engine, monkeypatch):
    def fail(*_):
        raise MemoryError

    message = pack({name: unpack(encoded)[name] for name in ("tokens", "tile")})
    with monkeypatch.context() as patch:
        patch.setattr(engine, "decode", fail)
        answer = client.post("/api/decode?rows=1&cols=1", content=message)
        assert answer.status_code == 500 and "goes on" in answer.json()["error"]
    assert client.post("/api/decode?rows=1&cols=1", content=message).status_code == 200


def test_photos_that_are_not_kept_any_more_are_asked_for_again(client, key):
    answer = client.post("/api/encode?photo=0123&tokens=8")
    assert answer.status_code == 404 and "send it again" in answer.json()["error"]
