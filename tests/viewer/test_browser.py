"""The viewer in a real browser: open, move, paint, slide, undo, save, open again."""

import base64
import copy
import io
import json
import os
import shlex

import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image
from skimage import data as photos
from starlette.testclient import TestClient

from gpstoken_jax.programs import view as view_program
from tests.viewer.page import Page

pytestmark = pytest.mark.usefixtures("browser")
LOCAL = view_program.Access()


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "face of a woman.png"
    Image.fromarray(photos.astronaut()[:256, 100:356]).save(path)
    return path


@pytest.fixture(scope="module")
def view(browser, server, photo):
    page = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    view = Page(page, server)
    view.open(photo)
    yield view
    assert view.problems == []
    page.close()


def centre(tokens, i):
    return (tokens[i, 3:5] + 1) / 2


def test_a_moved_gaussian_changes_the_right_pixels(view, engine):
    before, (tokens, _) = view.picture(), view.step()
    inner = np.abs(tokens[:, 3:5]).max(axis=1) < 0.7
    i = int(np.flatnonzero(inner)[0])
    x, y = centre(tokens, i)
    view.drag((x, y), (x + 0.1, y + 0.05))
    moved, _ = view.step()
    after = view.picture()
    changed = np.flatnonzero((moved != tokens).any(axis=1))
    assert len(changed) == 1
    shift = moved[changed[0], 3:5] - tokens[changed[0], 3:5]
    np.testing.assert_allclose(shift, [0.2, 0.1], atol=0.02)
    np.testing.assert_array_equal(moved[:, 5:], tokens[:, 5:])
    # Norms and attention carry a little everywhere; what was moved is seen where it was and is.
    height, width = before.shape[:2]
    difference = np.abs(after.astype(int) - before).sum(axis=-1)
    top, left = np.unravel_index(difference.argmax(), difference.shape)
    places = np.array([centre(t, changed[0]) for t in (tokens, moved)]) * [width, height]
    sigma = tokens[changed[0], :2] * [width / 2, height / 2] + 4
    reach = engine.tokenizer.config.model.support * sigma
    assert (np.abs(places - [left, top]) <= reach).all(axis=1).any()
    view.page.keyboard.press("Control+z")
    view.settle()
    np.testing.assert_array_equal(view.picture(), before)
    view.page.keyboard.press("Control+Shift+z")
    view.settle()
    np.testing.assert_array_equal(view.picture(), after)
    view.page.keyboard.press("Control+z")
    view.settle()


def test_handles_turn_and_stretch(view):
    tokens, _ = view.step()
    i = int(np.abs(tokens[:, 3:5]).max(axis=1).argmin())
    view.page.mouse.click(*view.place(*centre(tokens, i)))
    (chosen,) = view.page.evaluate("gpstoken.studio.selection")
    ends = view.page.evaluate(
        """(async () => {
          const { handles } = await import("/static/pane.js");
          const { studio, panes, gaussian } = gpstoken;
          const { step, selection, depth, size } = studio;
          const shape = gaussian(step.tokens, selection[0], depth, size);
          const { clientWidth: w, clientHeight: h } = panes.rebuilt.canvas;
          return handles(shape, panes.rebuilt.scale).map(({ kind, x, y }) => [kind, x / w, y / h]);
        })()"""
    )
    kind, x, y = ends[0]
    away = np.array([x, y]) - centre(tokens, chosen)
    view.drag((x, y), centre(tokens, chosen) + 2 * away)
    stretched, _ = view.step()
    area = [np.prod(t[chosen, :2]) * np.sqrt(1 - t[chosen, 2] ** 2) for t in (tokens, stretched)]
    assert kind == "long" and area[1] > 1.5 * area[0]
    kind, x, y = ends[-1]
    assert kind == "turn"
    view.page.keyboard.press("Control+z")
    view.settle()
    middle = centre(tokens, chosen)
    away = np.array([x, y]) - middle
    view.drag((x, y), middle + np.array([-away[1], away[0]]))
    turned, _ = view.step()
    np.testing.assert_allclose(turned[chosen, :2], tokens[chosen, 1::-1], rtol=0.05)
    view.page.keyboard.press("Control+z")
    view.settle()
    np.testing.assert_array_equal(view.step()[0], tokens)


def test_buttons_and_keys_edit(view):
    """Delete, duplicate, lasso, swap, select all; each undone."""
    page, (tokens, _), count = view.page, view.step(), len(view.step()[0])
    page.mouse.click(*view.place(*centre(tokens, 3)))
    page.locator("[data-edit=duplicate]").click()
    view.settle()
    assert len(view.step()[0]) == count + 1
    assert page.evaluate("gpstoken.studio.selection") == [count]
    page.keyboard.press("Delete")
    view.settle()
    np.testing.assert_array_equal(view.step()[0], tokens)
    page.evaluate("gpstoken.studio.select([0, 1])")
    page.locator("[data-edit=swap]").click()
    view.settle()
    swapped, _ = view.step()
    np.testing.assert_array_equal(swapped[:2, 5:], tokens[1::-1, 5:])
    np.testing.assert_array_equal(swapped[:, :5], tokens[:, :5])
    for _ in range(3):
        page.keyboard.press("Control+z")
        view.settle()
    np.testing.assert_array_equal(view.step()[0], tokens)
    view.tool("lasso")
    view.drag((0.02, 0.02), (0.5, 0.02), (0.5, 0.98), (0.02, 0.98))
    chosen = page.evaluate("gpstoken.studio.selection")
    inside = np.flatnonzero((centre(tokens, slice(None)) > 0.02).all(axis=1) & (tokens[:, 3] < 0))
    assert chosen == inside.tolist() and len(chosen) > 3
    page.locator("#rebuilt").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    view.settle()
    nudged, _ = view.step()
    pixel = 2 / (view.picture().shape[1] - 1)
    np.testing.assert_allclose((nudged - tokens)[chosen, 3], 2 * pixel, rtol=1e-3)
    page.keyboard.press("Control+z")  # both at once
    view.settle()
    np.testing.assert_array_equal(view.step()[0], tokens)
    page.keyboard.press("PageDown")
    assert len(page.evaluate("gpstoken.studio.selection")) == 1
    page.keyboard.press("Escape")
    assert page.locator("#selection-title").text_content() == "Nothing selected"


def test_a_pixel_tells_its_tokens(view):
    tokens, _ = view.step()
    view.page.mouse.click(*view.place(*centre(tokens, 5)))
    shown = view.page.locator("#weights button").all_text_contents()
    weights = [float(text[-4:]) for text in shown]
    assert weights == sorted(weights, reverse=True) and 0.9 <= weights[0] <= 1
    assert "Token 6" in shown[weights.index(max(weights))] or len(shown) > 1
    view.page.locator("#weights button").last.click()
    assert len(view.page.evaluate("gpstoken.studio.selection")) == 1


def test_painting_moves_tokens(view):
    """With 40 tokens one of four tiles can have twice as many: the one that is painted."""
    view.page.evaluate("gpstoken.studio.encode({ wanted: 40 })")
    view.settle()
    before, (rows, cols) = view.step()
    counts = np.bincount(view.page.evaluate("[...gpstoken.studio.step.tile]"))
    tile = int(counts.argmin())
    y, x = np.divmod(tile, cols) / np.array([rows, cols]) + 0.1
    view.tool("more")
    view.drag((x, y), (x + 0.3, y), (x + 0.3, y + 0.3), (x, y + 0.3), (x + 0.15, y + 0.15))
    after, grid = view.step()
    assert grid == (rows, cols) and len(after) <= len(before)
    painted = np.bincount(view.page.evaluate("[...gpstoken.studio.step.tile]"))
    assert painted.argmax() == tile and painted[tile] == 16 and counts[tile] == 8
    view.page.keyboard.press("Control+z")
    view.settle()
    np.testing.assert_array_equal(view.step()[0], before)
    view.tool("move")


def test_the_slider_changes_the_number(view):
    before, grid = view.step()
    slider = view.page.locator("#tokens")
    slider.focus()
    slider.press("Home")
    view.settle()
    fewest, small = view.step()
    assert len(fewest) == 8 and small == (1, 1) and small < grid
    assert view.page.locator("#tokens-out").text_content() == "8"
    slider.press("End")
    view.settle()
    most, large = view.step()
    assert len(most) == 64 and large == (2, 2)
    likeness = view.page.locator("#psnr").text_content()
    assert likeness.endswith("dB") and view.page.locator("#values").text_content() == "1,344"
    for _ in range(2):
        view.page.locator("#undo").click()
        view.settle()
    np.testing.assert_array_equal(view.step()[0], before)


def test_what_is_saved_is_what_is_shown(view, program, tmp_path, monkeypatch):
    """An edited picture: its pixels, its tokens decoded by the command that the page tells."""
    tokens, _ = view.step()
    view.page.mouse.click(*view.place(*centre(tokens, 2)))
    view.page.keyboard.press("d")
    view.settle()
    shown = view.picture()
    name, png = view.download("#save-picture")
    assert name == "face_of_a_woman.png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png)))[..., :3], shown)
    name, content = view.download("#save-tokens")
    (tmp_path / name).write_bytes(content)
    view.page.click("#save")
    view.page.click("#show-command")
    decode, opens = (view.page.locator(f"#command-{c}").text_content() for c in ("decode", "view"))
    assert not view.page.locator("#command-address").is_visible()  # no address has this photo
    view.page.keyboard.press("Escape")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(decode)
    assert words[:2] == ["gpstoken", "decode"]
    program(*words[1:])
    decoded = np.asarray(Image.open(tmp_path / "face_of_a_woman_decoded" / "face_of_a_woman.png"))
    assert np.abs(decoded.astype(int) - shown).max() <= 1
    assert shlex.split(opens)[:3] == ["gpstoken", "view", "face of a woman.png"]


def test_the_command_that_opens_a_photo(view, photo, monkeypatch):
    """The program itself, but for the serving: what it would serve is asked."""
    view.page.click("#save")
    view.page.click("#show-command")
    command = view.page.locator("#command-view").text_content()
    view.page.keyboard.press("Escape")
    served, ended = [], []

    class Served:
        def __init__(self, app):
            self.app = app

        def run(self, sockets):
            served.append(TestClient(self.app, view_program.page_address(sockets[0], LOCAL)))
            sockets[0].close()
            raise KeyboardInterrupt

    monkeypatch.setattr(view_program, "server_for", Served)
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.chdir(photo.parent)
    with flagsaver.flagsaver():
        _, *images = view_program.flags.FLAGS(
            [*shlex.split(command)[1:], "--port=0", "--nobrowser"]
        )
        view_program.main(images)
    model = served[0].get("/api/model").json()
    assert model["shelf"][0] == {"name": photo.name, "given": True}
    assert model["num_tokens"] == view.page.evaluate("gpstoken.studio.step.wanted")
    assert ended == [0]


def test_a_saved_page_opens_again(view, tmp_path):
    edited, shown = view.step()[0], view.picture()
    name, saved = view.download("#save-page")
    assert name == "face_of_a_woman.gpstoken.json"
    (tmp_path / name).write_bytes(saved)
    before = view.page.evaluate("gpstoken.studio.pictures.length")
    view.open(tmp_path / name)
    assert view.page.evaluate("gpstoken.studio.pictures.length") == 2 * before
    np.testing.assert_array_equal(view.step()[0], edited)
    np.testing.assert_array_equal(view.picture(), shown)


def damaged_pages(saved):
    page = json.loads(saved)

    def text(array):
        return base64.b64encode(array.tobytes()).decode()

    def changed(*path, value):
        copied = copy.deepcopy(page)
        place = copied
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        return json.dumps(copied).encode()

    none = "no page that was saved here"
    yield none, saved[: len(saved) // 2]
    for other in ({"kind": "another"}, [], None, 5, "text"):
        yield none, json.dumps(other).encode()
    for value in (None, 5, {}, "text"):
        yield none, changed("pictures", value=value)
    for value in (None, 5, {}, {"features": 3}):
        yield "of another model", changed("model", value=value)
    for value in (None, 5, "text", {}):
        yield "damaged", changed("pictures", 0, value=value)
    count = 1000
    wrong = [
        *(("rows", v) for v in (None, 0, -1, 1.5, "2", 1e9)),
        ("wanted", "x"),
        ("tokens", 5),
        ("tokens", "???"),
        ("tokens", text(np.zeros(3, np.uint8))),
        ("tokens", ""),
        ("tile", text(np.full(count, 999, np.uint16))),
        ("layout", None),
        ("focus", ""),
    ]
    for field, value in wrong:
        yield "damaged", changed("pictures", 0, field, value=value)
    tokens = np.frombuffer(base64.b64decode(page["pictures"][0]["tokens"]), np.float32).copy()
    tokens[3] = np.nan
    yield "damaged", changed("pictures", 0, "tokens", value=text(tokens))
    yield "is not here", changed("pictures", 0, "source", value={"shelf": "../../etc/passwd"})
    yield "not an image", changed("pictures", 0, "source", value={"file": "AAAA"})


def test_damaged_pages_are_told(view, tmp_path):
    _, saved = view.download("#save-page")
    path = tmp_path / "<img src=x onerror=alert(1)>.json"
    page = json.loads(saved)
    page["pictures"] = page["pictures"][:1]
    before = view.page.evaluate("gpstoken.studio.pictures.length")
    for said, content in damaged_pages(json.dumps(page).encode()):
        path.write_bytes(content)
        view.page.set_input_files("#file", str(path))
        assert said in view.said()
    assert view.page.evaluate("gpstoken.studio.pictures.length") == before
    view.problems[:] = [p for p in view.problems if "400" not in p]  # the browser's words for it


def test_a_region_goes_into_another_picture(view, tmp_path):
    source, _ = view.step()
    view.tool("lasso")
    view.drag((0.5, 0.02), (0.98, 0.02), (0.98, 0.98), (0.5, 0.98))
    taken = view.page.evaluate("gpstoken.studio.selection")
    view.page.keyboard.press("Control+c")
    other = tmp_path / "other.png"
    Image.fromarray(photos.coffee()[:200, :200]).save(other)
    view.open(other)
    view.page.locator("#rebuilt").focus()
    view.page.keyboard.press("Control+v")
    view.settle()
    pasted, _ = view.step()
    np.testing.assert_array_equal(pasted[-len(taken) :], source[taken])
    assert not (centre(pasted[: -len(taken)], slice(None))[:, 0] > 0.51).any()


def test_bad_files_are_told_in_the_page(view, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    view.page.set_input_files("#file", str(bad))
    assert "bad.png: not an image" in view.said()
    view.problems.clear()  # the browser tells of the answer 400 as well


def test_a_server_that_is_gone_is_told(view):
    tokens, _ = view.step()
    view.page.context.set_offline(True)
    view.page.evaluate("gpstoken.studio.select([0])")
    view.page.locator("#rebuilt").focus()
    view.page.keyboard.press("ArrowRight")
    assert "does not answer" in view.said()
    view.page.context.set_offline(False)
    view.problems.clear()
    view.page.keyboard.press("Control+z")
    view.settle()
    np.testing.assert_array_equal(view.step()[0], tokens)


def names(view):
    return view.page.evaluate("gpstoken.studio.pictures.map(({ name }) => name)")


def test_a_photo_is_dropped(view, photo):
    """By the browser's own drag and drop."""
    before = names(view)
    session = view.page.context.new_cdp_session(view.page)
    x, y = view.place(0.5, 0.5)
    data = {"items": [], "files": [str(photo)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        if kind == "drop":
            assert view.page.locator("#drop").is_visible()
        event = {"type": kind, "x": x, "y": y, "data": data}
        session.send("Input.dispatchDragEvent", event)
    view.wait(f"gpstoken.studio.pictures.length > {len(before)}")
    view.settle()
    assert names(view) == [*before, photo.name]
    assert not view.page.locator("#drop").is_visible()


def test_a_photo_is_pasted(view, server):
    """From the clipboard, by the key; then tokens that were copied since."""
    before = names(view)
    view.page.context.grant_permissions(
        ["clipboard-read", "clipboard-write"], origin=server.address
    )
    buffer = io.BytesIO()
    Image.fromarray(photos.coffee()[:96, :96]).save(buffer, "PNG")
    view.page.evaluate(
        """async (text) => {
          const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
          const item = new ClipboardItem({ "image/png": new Blob([bytes], { type: "image/png" }) });
          await navigator.clipboard.write([item]);
        }""",
        base64.b64encode(buffer.getvalue()).decode(),
    )
    view.page.keyboard.press("Control+v")
    view.wait(f"gpstoken.studio.pictures.length > {len(before)}")
    view.settle()
    assert names(view) == [*before, "image.png"]
    count = len(view.step()[0])
    view.page.evaluate("gpstoken.studio.select([0, 1])")
    view.page.keyboard.press("Control+c")
    view.page.keyboard.press("Control+v")
    view.settle()
    assert len(view.step()[0]) == count + 2 and len(names(view)) == len(before) + 1


def test_a_photo_that_the_server_forgot_is_sent_again(view):
    view.page.evaluate("gpstoken.studio.current.photo.key = '0'.repeat(32)")
    before = view.page.locator("#tokens-out").text_content()
    view.page.locator("#tokens").press("ArrowLeft")  # and undo works from there
    view.settle()
    assert view.page.evaluate("gpstoken.studio.current.photo.key") != "0" * 32
    view.problems.clear()  # the browser tells of the answer 404
    view.page.keyboard.press("Control+z")
    view.settle()
    assert view.page.locator("#tokens-out").text_content() == before


def test_pictures_that_are_left_early_are_finished_later(view, photo):
    for _ in range(3):
        view.page.set_input_files("#file", [str(photo), str(photo)])
    view.settle()
    count = view.page.locator("[aria-label='Open pictures'] [aria-pressed]").count()
    for i in range(count):
        view.page.locator("[aria-label='Open pictures'] [aria-pressed]").nth(i).click()
        view.settle()
        assert view.page.evaluate(
            "Boolean(gpstoken.studio.step && gpstoken.studio.current.rebuilt)"
        )
    view.page.locator("[aria-label='Open pictures'] .close").last.click()
    assert view.page.locator("[aria-label='Open pictures'] [aria-pressed]").count() == count - 1


def test_new_pictures(view):
    page = view.page
    page.get_by_role("button", name="Make", exact=True).click()
    view.wait("gpstoken.studio.current.name === 'cat_0'")
    view.settle()
    first, _ = view.step()
    assert first.shape == (8, 21)
    page.select_option("#gen-class", label="dog")
    page.select_option("#gen-layout", "now")
    page.get_by_role("button", name="Make", exact=True).click()
    view.wait("gpstoken.studio.current.name === 'dog_1'")
    view.settle()
    layout = page.evaluate("[...gpstoken.studio.step.layout]")
    np.testing.assert_array_equal(np.float32(layout).reshape(8, 5), first[:, :5])
    assert page.locator("#psnr").text_content() == "–"
    page.click("#save")
    page.click("#show-command")
    assert not page.locator("#command-again").is_visible()  # no photo can be opened again
    page.keyboard.press("Escape")


def test_light_and_dark_can_be_read(view):
    """Every text has contrast; the button turns one into the other, and back."""
    grounds = []
    for _ in range(2):
        grounds.append(view.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        for dialog in ("", "#help-dialog"):
            if dialog:
                view.page.keyboard.press("?")
            assert view.faint() == []
            view.page.keyboard.press("Escape")
        view.page.click("#theme")
    light, dark = (sum(map(int, ground[4:-1].split(","))) for ground in grounds)
    assert light > 600 and dark < 200


def test_without_a_mouse(view):
    """From the top with Tab alone: open, tool, tokens, select, move, save."""
    page = view.page
    assert view.nameless() == []
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                """(({ id, name, ariaLabel }) => id || name || ariaLabel)(document.activeElement)"""
            )
        )
        outlined = page.evaluate(
            """[document.activeElement, document.activeElement.nextElementSibling]
              .some((e) => e && getComputedStyle(e).outlineStyle !== "none")"""
        )
        assert outlined or not reached[-1], reached[-1]
    for name in ("open", "save", "theme", "help", "tool", "photo", "rebuilt", "show-gaussians"):
        assert name in reached, name
    page.locator("#save").focus()
    page.keyboard.press("Enter")
    assert page.locator("#save-picture").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#save-picture").is_visible()


def test_a_phone(browser, server):
    """400 pixels wide, by fingers, in the dark, from an address that names photo and tokens."""
    context = browser.new_context(
        viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True, color_scheme="dark"
    )
    view = Page(context.new_page(), server, "/#photo=chelsea.png&tokens=32.4")
    page = view.page
    view.settle()
    tokens, grid = view.step()
    assert names(view) == ["chelsea.png"] and len(tokens) == 32 and grid == (2, 2)
    page.locator("#save").tap()
    page.locator("#show-command").tap()
    link = page.locator("#command-link").get_attribute("href")
    assert link == f"{server.address}/#photo=chelsea.png&tokens=32"
    page.keyboard.press("Escape")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert view.nameless() == [] and view.faint() == []
    small = page.evaluate(
        """[...document.querySelectorAll("button, [role=radiogroup] label > span")]
          .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 30)
          .filter((e) => !e.matches(".close")).map((e) => e.outerHTML)"""
    )
    assert small == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, background[4:-1].split(","))) < 60
    x, y = centre(tokens, 4)
    view.touch((x, y), (x + 0.05, y), (x + 0.1, y))
    assert (view.step()[0] != tokens).any(axis=1).sum() == 1
    page.locator("#undo").tap()
    view.settle()
    view.tap_tool("lasso")
    view.touch((0.02, 0.02), (0.5, 0.02), (0.5, 0.98), (0.02, 0.98))
    inside = (centre(tokens, slice(None)) > 0.02).all(axis=1) & (tokens[:, 3] < 0)
    assert page.evaluate("gpstoken.studio.selection") == np.flatnonzero(inside).tolist()
    view.tap_tool("more")
    view.touch((0.2, 0.2), (0.3, 0.3))
    assert page.evaluate("Math.max(...gpstoken.studio.step.focus.data)") > 100
    page.locator("[data-view=photo]").tap()
    assert page.locator("#photo").is_visible() and not page.locator("#rebuilt").is_visible()
    page.goto(f"{server.address}/#photo=nowhere.png&tokens=-3")  # in a page that is open
    view.wait("gpstoken.studio.pictures.length === 2")
    view.settle()
    assert len(view.step()[0]) == 8
    assert view.problems == []
    context.close()
