"""The viewer in a real browser: open, move, paint, slide, undo, save, open again."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

from tests.viewer.page import Page

pytestmark = [pytest.mark.usefixtures("browser"), pytest.mark.slow]


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
    view.page.evaluate("gpstoken.studio.encode({ wanted: 32 })")
    view.settle()
    before, (rows, cols) = view.step()
    view.tool("more")
    view.drag((0.1, 0.1), (0.4, 0.1), (0.4, 0.4), (0.1, 0.4), (0.25, 0.25))
    after, grid = view.step()
    assert grid == (rows, cols)

    def corner(tokens):
        return int((tokens[:, 3:5] < 0).all(axis=1).sum())

    assert corner(after) > corner(before) and len(after) <= len(before)
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


def test_what_is_saved_is_what_is_shown(view, random_run, tmp_path):
    """An edited picture: its pixels, its tokens decoded by ``gpstoken decode``, the whole page."""
    tokens, _ = view.step()
    view.page.mouse.click(*view.place(*centre(tokens, 2)))
    view.page.keyboard.press("d")
    view.settle()
    shown, (edited, _) = view.picture(), view.step()
    name, png = view.download("#save-picture")
    assert name == "face_of_a_woman.png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png)))[..., :3], shown)
    name, content = view.download("#save-tokens")
    (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-m", "gpstoken_jax", "decode", f"--checkpoint={random_run}"]
    command += [f"--tokens={tmp_path / name}", f"--output={tmp_path / 'decoded'}"]
    subprocess.run(command, check=True, capture_output=True)
    decoded = np.asarray(Image.open(tmp_path / "decoded" / "face_of_a_woman.png"))
    assert np.abs(decoded.astype(int) - shown).max() <= 1
    name, saved = view.download("#save-page")
    assert name == "face_of_a_woman.gpstoken.json"
    (tmp_path / name).write_bytes(saved)
    view.open(tmp_path / name)
    assert view.page.evaluate("gpstoken.studio.pictures.length") == 2
    np.testing.assert_array_equal(view.step()[0], edited)
    np.testing.assert_array_equal(view.picture(), shown)
    for broken in (saved[: len(saved) // 2], json.dumps({"kind": "another"}).encode()):
        (tmp_path / "broken.json").write_bytes(broken)
        view.open(tmp_path / "broken.json")
        assert "no page that was saved here" in view.page.locator("#notices").text_content()


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
    view.page.locator("#notices .error").wait_for()
    assert "bad.png: not an image" in view.page.locator("#notices").text_content()
    view.problems.clear()  # the browser tells of the answer 400 as well


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


def test_a_phone(browser, server, photo):
    """400 pixels wide, touch, dark: nothing sticks out, everything has a name and can be moved."""
    context = browser.new_context(
        viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True, color_scheme="dark"
    )
    view = Page(context.new_page(), server)
    view.open(photo)
    assert view.page.evaluate("document.documentElement.scrollWidth") <= 400
    nameless = view.page.evaluate(
        """[...document.querySelectorAll("button, input, select, canvas, a, [role=radiogroup]")]
          .filter((e) => e.checkVisibility() && !e.closest(".thumbs button"))
          .filter((e) => !(e.ariaLabel || e.labels?.length || e.textContent.trim()))
          .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    small = view.page.evaluate(
        """[...document.querySelectorAll("button, [role=radiogroup] label > span")]
          .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 30)
          .filter((e) => !e.matches(".close")).map((e) => e.outerHTML)"""
    )
    assert small == []
    background = view.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, background[4:-1].split(","))) < 60
    tokens, _ = view.step()
    x, y = view.place(*centre(tokens, 4))
    touch = context.new_cdp_session(view.page)
    for kind, dx in (("Start", 0), ("Move", 15), ("Move", 30), ("End", None)):
        points = [] if dx is None else [{"x": x + dx, "y": y}]
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    view.settle()
    assert (view.step()[0] != tokens).any(axis=1).sum() == 1
    view.page.locator("[data-view=photo]").tap()
    assert (
        view.page.locator("#photo").is_visible() and not view.page.locator("#rebuilt").is_visible()
    )
    assert view.problems == []
    context.close()
