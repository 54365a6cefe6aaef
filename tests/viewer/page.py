"""The viewer's page, and what a person would do with it."""

import numpy as np


class Page:
    """A page in a browser; ``problems`` is what its console complained of."""

    def __init__(self, page, server):
        self.page, self.problems = page, []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on(
            "console",
            lambda said: self.problems.append(said.text) if said.type == "error" else None,
        )
        page.on("request", self._at_home(server))
        page.goto(server.address)
        self._wait("Boolean(window.gpstoken)")

    def _at_home(self, server):
        def check(request):
            if not request.url.startswith((server.address, "blob:", "data:")):
                self.problems.append(f"asked the internet for {request.url}")

        return check

    def settle(self):
        """Waits until nothing is asked of the server any more and all is drawn."""
        self._wait(
            "Boolean(gpstoken.studio.current?.rebuilt) && !gpstoken.studio.working", first=50
        )

    def _wait(self, condition, first=0):
        self.page.wait_for_timeout(first)
        for _ in range(1200):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"the page does not come to rest: {condition}")

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
