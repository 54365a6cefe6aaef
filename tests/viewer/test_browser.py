"""The viewer in a real browser: open, move, paint, slide, undo, save, open again."""

import shutil

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

playwright = pytest.importorskip(
    "playwright.sync_api", reason="no Playwright: pip install playwright"
)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium: the viewer is not opened (apt-get install chromium)"
)
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "face of a woman.png"
    Image.fromarray(photos.astronaut()[:256, 100:356]).save(path)
    return path


class Page:
    """A page with a photo open, and what a person would do with it."""

    def __init__(self, page, server):
        self.page, self.problems = page, []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on(
            "console",
            lambda said: self.problems.append(said.text) if said.type == "error" else None,
        )
        page.on("request", self._at_home(server))
        page.goto(server.address)

    def _at_home(self, server):
        def check(request):
            if not request.url.startswith((server.address, "blob:", "data:")):
                self.problems.append(f"asked the internet for {request.url}")

        return check

    def settle(self):
        """Waits until nothing is asked of the server any more and all is drawn."""
        for _ in range(1200):
            self.page.wait_for_timeout(50)
            if self.page.evaluate(
                "Boolean(window.gpstoken?.studio.current?.rebuilt) && !gpstoken.studio.working"
            ):
                return
        raise AssertionError("the page does not come to rest")

    def open(self, *paths):
        self.page.set_input_files("#file", [str(path) for path in paths])
        self.page.wait_for_timeout(100)
        self.settle()

    def step(self):
        """Tokens [L, 5 + C] and grid that are shown."""
        rows, cols, depth, tokens = self.page.evaluate(
            "(({step, depth}) => [step.rows, step.cols, depth, [...step.tokens]])(gpstoken.studio)"
        )
        return np.array(tokens, np.float32).reshape(-1, depth), (rows, cols)

    def picture(self):
        """The rebuilt picture, RGB."""
        shape, values = self.page.evaluate(
            "(({shape, data}) => [shape, [...data]])(gpstoken.studio.current.rebuilt)"
        )
        return np.array(values, np.uint8).reshape(shape)

    def place(self, x, y):
        """A place in [0, 1] of the rebuilt picture, on the screen."""
        box = self.page.locator("#rebuilt").bounding_box()
        return box["x"] + float(x) * box["width"], box["y"] + float(y) * box["height"]

    def drag(self, *places):
        self.page.mouse.move(*self.place(*places[0]))
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*self.place(*place), steps=4)
        self.page.mouse.up()
        self.settle()

    def tool(self, name):
        self.page.locator(f"[name=tool][value={name}]").check()

    def download(self, button):
        self.page.click("#save")
        with self.page.expect_download() as caught:
            self.page.click(button)
        path = caught.value.path()
        return caught.value.suggested_filename, path.read_bytes()


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
