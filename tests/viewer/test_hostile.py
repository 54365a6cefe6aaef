"""Requests that no page sends: each is refused or ended, and the next one is served."""

import io
import json
import random
import socket
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from gpstoken_jax.data.images import FORMATS
from gpstoken_jax.viewer import Access, create_app, requests, serving
from gpstoken_jax.viewer.wire import pack
from tests.viewer.server import Server

HOST = b"Host: 127.0.0.1"
CLOSE = b"Connection: close"
CHUNKED = b"Transfer-Encoding: chunked"
ENDED = None  # without an answer


@pytest.fixture(scope="module")
def server(quiet_engine):
    with Server(create_app(quiet_engine)) as running:
        yield running


@pytest.fixture(scope="module")
def client(quiet_engine):
    return TestClient(
        create_app(quiet_engine), "http://127.0.0.1:8470", raise_server_exceptions=False
    )


def send(server, *parts):
    """Sends bytes and reads until the server ends it: the status, or None if there is none."""
    answer = b""
    with socket.create_connection(server.listener.getsockname(), timeout=20) as raw:
        try:
            for part in parts:
                raw.sendall(part)
            while part := raw.recv(1 << 16):
                answer += part
        except ConnectionError:  # it did not want to hear the rest
            pass
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else ENDED


def get(target, *headers, version=b"HTTP/1.1", method=b"GET"):
    return b"\r\n".join([method + b" " + target + b" " + version, *headers, CLOSE]) + b"\r\n\r\n"


def post(body, *headers, path=b"/api/photo"):
    return get(path, HOST, *headers, method=b"POST") + body


NO_REQUESTS = {
    "noise": (bytes(range(256)) * 8 + b"\r\n\r\n", {400}),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(99) + b"\r\n\r\n", {400}),
    "http 0.9": (b"GET /\r\n\r\n", {400}),
    "http 9": (get(b"/", HOST, version=b"HTTP/9.9"), {200, 400}),
    "huge header": (get(b"/", HOST, b"X: " + b"x" * (1 << 20)), {400, ENDED}),
    "many headers": (get(b"/", HOST, *[b"X: x"] * 100_000), {400, ENDED}),
    "huge path": (get(b"/" + b"a" * (1 << 20), HOST), {400, ENDED}),
    "no host": (get(b"/"), {400}),
    "two hosts": (get(b"/", HOST, b"Host: evil.example"), {400}),
    "null in the path": (get(b"/\0", HOST), {400}),
    "proxy": (get(b"http://evil.example/", HOST), {404}),
    "connect": (get(b"evil.example:443", HOST, method=b"CONNECT"), {400, 404, 405}),
    "trace": (get(b"/", HOST, method=b"TRACE"), {405}),
    "delete": (get(b"/api/model", HOST, method=b"DELETE"), {405}),
    "no method": (get(b"/api/model", HOST, method=b"<script>"), {400, 405}),
    "up": (get(b"/static/../../access.py", HOST), {404}),
    "up, coded": (get(b"/static/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc/passwd", HOST), {404}),
    "up, coded twice": (get(b"/static/%252e%252e/app.py", HOST), {404}),
    "up, backslash": (get(b"/static/..%5capp.py", HOST), {404}),
    "root": (get(b"//etc/passwd", HOST), {404}),
    "no utf-8": (get(b"/static/%ff%fe", HOST), {404}),
    "upgrade": (
        get(b"/api/nothing", HOST, b"Upgrade: websocket", b"Connection: upgrade",
            b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="),
        {404},
    ),
    "upload, length below 0": (post(b"x", b"Content-Length: -1"), {400}),
    "upload, length of 30 digits": (post(b"x", b"Content-Length: " + b"9" * 30), {400, 413}),
    "upload, two lengths": (post(b"xx", b"Content-Length: 1", b"Content-Length: 2"), {400}),
    "upload, length and chunks": (post(b"0\r\n\r\n", b"Content-Length: 5", CHUNKED), {400}),
    "upload, no chunks": (post(b"zz\r\nabc\r\n", CHUNKED), {400, ENDED}),
    "upload, huge chunk": (post(b"f" * 40 + b"\r\nabc", CHUNKED), {400, ENDED}),
    "upload, unknown coding": (post(b"abc", b"Transfer-Encoding: gzip"), {400, 501}),
    "upload, nothing": (post(b"", b"Content-Length: 0"), {400}),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_REQUESTS)
def test_what_is_no_request(server, kind):
    sent, statuses = NO_REQUESTS[kind]
    assert send(server, sent) in statuses
    assert send(server, get(b"/api/model", HOST)) == 200


def test_connections_that_do_not_ask_keep_nobody_out(server, monkeypatch):
    """Neither those that send nothing, nor a part of a head, nor a part after a whole request."""
    monkeypatch.setattr(serving, "_HEADER_SECONDS", 0.3)
    whole = b"GET /api/warmth HTTP/1.1\r\n" + HOST + b"\r\n\r\n"
    starts = (b"", whole[:9], whole + whole[:9])
    idle = [socket.create_connection(server.listener.getsockname()) for _ in range(140)]
    for i, connection in enumerate(idle):
        connection.sendall(starts[i % 3])
    deadline = time.monotonic() + 20
    while (status := send(server, get(b"/api/model", HOST))) != 200:
        assert status in (503, ENDED) and time.monotonic() < deadline
        time.sleep(0.1)
    for connection in idle:
        connection.settimeout(20)
        with connection:
            while connection.recv(1 << 16):  # until it is ended
                pass


def test_bodies_that_do_not_come_are_ended(server, monkeypatch):
    monkeypatch.setattr(requests, "_BODY_SECONDS", 0.3)
    promise = post(b"abc", b"Content-Length: 1000")
    for path in (b"/api/photo", b"/api/decode?rows=1&cols=1"):
        assert send(server, promise.replace(b"/api/photo", path)) == 408


# ---- Files --------------------------------------------------------------------------------------


def image_file(kind, **options):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 48, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def image_files():
    for kind in FORMATS:
        if kind in Image.SAVE:
            try:
                yield kind, image_file(kind)
            except OSError:  # Pillow was built without
                continue


def test_damaged_files_of_every_kind(client):
    """Cut, with wrong bytes, with zeros: pixels or one line, never a failure."""
    rng = random.Random(0)
    for kind, data in image_files():
        for i in range(12):
            damaged = bytearray(data)
            if i % 3 == 0:
                del damaged[rng.randrange(len(data)) :]
            for _ in range(1 << (i % 6)):
                if damaged:
                    at = rng.randrange(min(len(damaged), 64 if i % 2 else len(damaged)))
                    damaged[at] = rng.choice((0, 255, rng.randrange(256)))
            answer = client.post("/api/photo", content=bytes(damaged))
            assert answer.status_code in (200, 400), (kind, i, answer.text)


def huge_files():
    """Files of a few bytes whose heads promise a billion pixels."""
    png = bytearray(image_file("PNG"))
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    yield "PNG", png
    jpeg = bytearray(image_file("JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = (60_000).to_bytes(2, "big") * 2
    yield "JPEG", jpeg
    gif = bytearray(image_file("GIF"))
    gif[6:10] = (60_000).to_bytes(2, "little") * 2
    yield "GIF", gif
    bmp = bytearray(image_file("BMP"))
    bmp[18:26] = (60_000).to_bytes(4, "little") * 2
    yield "BMP", bmp
    yield "PPM", b"P6 60000 60000 255\n" + bytes(99)
    yield (
        "TIFF",
        image_file("TIFF")
        .replace(
            b"\x00\x01\x04\x00\x01\x00\x00\x00\x30\x00", b"\x00\x01\x04\x00\x01\x00\x00\x00\x60\xea"
        )
        .replace(
            b"\x01\x01\x04\x00\x01\x00\x00\x00\x28\x00", b"\x01\x01\x04\x00\x01\x00\x00\x00\x60\xea"
        ),
    )


def test_files_that_promise_too_much(client):
    for kind, data in huge_files():
        answer = client.post("/api/photo", content=bytes(data))
        assert answer.status_code == 400, kind
        assert "too large" in answer.json()["error"], (kind, answer.text)


def test_bombs_are_not_inflated(client):
    """A body that says it is compressed; a picture with a compressed text and profile."""
    body = zlib.compress(bytes(1 << 26))
    for coding in ("gzip", "deflate", "br"):
        answer = client.post("/api/photo", content=body, headers={"content-encoding": coding})
        assert answer.status_code == 400 and "not an image" in answer.text
    png = image_file("PNG")
    for name in (b"zTXt", b"iCCP"):
        chunk = name + b"a\0\0" + body
        bomb = png[:33] + (len(chunk) - 4).to_bytes(4, "big") + chunk
        bomb += zlib.crc32(chunk).to_bytes(4, "big") + png[33:]
        assert client.post("/api/photo", content=bomb).status_code in (200, 400)


# ---- Messages -----------------------------------------------------------------------------------


def message(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


ENTRY = {"dtype": "F32", "shape": [1, 21], "data_offsets": [0, 84]}
WRONG_HEADERS = {
    "a list": [],
    "a number": 5,
    "null": None,
    "an entry is a number": {"tokens": 5},
    "an entry is null": {"tokens": None},
    "type is a number": {"tokens": {**ENTRY, "dtype": 1}},
    "type is unknown": {"tokens": {**ENTRY, "dtype": "OBJECT"}},
    "type NumPy lacks": {"tokens": {"dtype": "BF16", "shape": [1, 42], "data_offsets": [0, 84]}},
    "type of 8 bits": {"tokens": {"dtype": "F8_E4M3", "shape": [84], "data_offsets": [0, 84]}},
    "shape is a text": {"tokens": {**ENTRY, "shape": "1,21"}},
    "shape below 0": {"tokens": {**ENTRY, "shape": [-1, -21]}},
    "shape of halves": {"tokens": {**ENTRY, "shape": [0.5, 42]}},
    "shape overflows": {"tokens": {**ENTRY, "shape": [2**62, 2**62]}},
    "shape is large": {"tokens": {**ENTRY, "shape": [10**9, 21]}},
    "places below 0": {"tokens": {**ENTRY, "data_offsets": [-84, 0]}},
    "places after the end": {"tokens": {**ENTRY, "data_offsets": [84, 168]}},
    "places backwards": {"tokens": {**ENTRY, "data_offsets": [84, 0]}},
    "places overlap": {"tokens": ENTRY, "tile": ENTRY},
    "words are numbers": {"__metadata__": {"a": 1}, "tokens": ENTRY},
    "a field more": {"tokens": {**ENTRY, "pickle": "x"}},
    "no json": b"{'tokens': 1",
    "no utf-8": b'{"\xff": 1}',
    "nested": b"[" * 100_000,
    "nan": b'{"tokens": NaN}',
    "the same twice": b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},' * 2 + b"}",
}


@pytest.mark.parametrize("kind", WRONG_HEADERS)
def test_wrong_headers_of_messages(client, kind):
    sent = message(WRONG_HEADERS[kind], bytes(84))
    for path in ("decode?rows=1&cols=1", "tokens?rows=1&cols=1", "generate?class=0&seed=0"):
        if path.startswith("generate") and kind in ("places overlap", "a field more"):
            continue  # what it does not look for it does not miss
        answer = client.post(f"/api/{path}", content=sent)
        assert answer.status_code == 400 and answer.json()["error"], path
        assert "\n" not in answer.json()["error"]


def test_mutated_messages(client):
    """Bytes changed anywhere; tile 9 is nowhere, so nothing that is left whole is computed."""
    tokens = np.full((6, 21), 0.5, np.float32)
    good = pack({"tokens": tokens, "tile": np.full(6, 9, np.uint16)})
    rng = random.Random(0)
    for _ in range(400):
        bad = bytearray(good)
        for _ in range(rng.choice((1, 3, 20))):
            bad[rng.randrange(rng.choice((8, 200, len(bad))))] = rng.randrange(256)
        answer = client.post("/api/decode?rows=1&cols=1", content=bytes(bad))
        assert answer.status_code == 400 and answer.json()["error"]


def test_too_much_of_everything(client):
    tokens, tile = np.full((9000, 21), 0.5, np.float32), np.zeros(9000, np.uint16)
    thousands = pack({"tokens": tokens, "tile": tile})
    answer = client.post("/api/decode?rows=1&cols=1", content=thousands)
    assert answer.status_code == 400 and "9000 tokens are in one tile" in answer.text
    many = {f"a{i}": np.zeros(1, np.uint8) for i in range(20_000)}
    assert client.post("/api/decode?rows=1&cols=1", content=pack(many)).status_code == 400
    too_long = bytes(requests.MESSAGE_BYTES + 1)
    assert client.post("/api/decode?rows=1&cols=1", content=too_long).status_code == 413


WORDS = (
    "", "nan", "inf", "-inf", "-0", "1e999", "1_0", "0x8", "٨", "²", "8.5", "+8", "8 ", "null",
    "true", "[8]", "{}", "8;8", "%00", "\n", "'; drop table tokens", "<script>", "../..",
    "9" * 5000,
)  # fmt: skip


@pytest.mark.parametrize("word", WORDS, ids=[f"word {i}" for i in range(len(WORDS))])
def test_words_where_numbers_should_be(client, word):
    """Also in the place of a photo's key; nothing is computed for them."""
    asked = {
        "decode": {"rows": word, "cols": word},
        "tokens": {"rows": word, "cols": "1"},
        "encode": {"photo": word, "tokens": word},
        "layout": {"photo": word},
        "generate": {"class": word, "seed": word, "guidance": word},
    }
    for path, query in asked.items():
        answer = client.post(f"/api/{path}", params=query)
        assert answer.status_code in (400, 404), path
        assert len(answer.json()["error"]) < 200


def test_any_header_is_refused_or_served(quiet_engine):
    """Cookies, hosts and origins of random characters, where other machines may come."""
    rng = random.Random(0)
    app = create_app(quiet_engine, access=Access("0.0.0.0", "right"))
    outside = TestClient(app, "http://192.168.0.7:8470", raise_server_exceptions=False)
    letters = [chr(code) for code in (*range(32, 127), *range(160, 256))] + list('=;,"\\[]:') * 9
    for _ in range(300):
        text = "".join(rng.choices(letters, k=rng.randrange(40))).strip()
        name = rng.choice(("cookie", "host", "origin", "sec-fetch-site"))
        text = rng.choice((text, f"gpstoken_viewer={text}", f"[{text}", f"expires={text};a={text}"))
        headers = {name: text.encode("latin-1")}
        assert outside.get("/api/model", headers=headers).status_code == 403
        assert outside.get("/", params={"token": text}).status_code == 403
