"""The viewer's page, and what a person would do with it."""

import numpy as np

FAINT = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const mixed = (colours) => {
    for (const colour of colours) {
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
    }
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colours) => {
    const [r, g, b] = mixed(colours).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const behind = (element) => {
    const found = [];
    for (let e = element; e; e = e.parentElement) {
      found.unshift(getComputedStyle(e).backgroundColor);
    }
    return ["white", ...found];
  };
  const ignored = "canvas, option, select, button:disabled";
  const faint = [];
  for (const e of document.querySelectorAll("body *")) {
    const text = [...e.childNodes].map((n) => (n.nodeType === 3 ? n.data : "")).join("").trim();
    if (!text || e.closest(ignored) || !e.checkVisibility()) continue;
    const [ground, ink] = [behind(e), getComputedStyle(e).color];
    const pair = [light(ground), light([...ground, ink])];
    const contrast = Math.max(...pair) / Math.min(...pair);
    if (contrast < 4.5) faint.push([text, contrast]);
  }
  return faint;
}"""


class Page:
    """A page in a browser; ``problems`` is what its console complained of."""

    def __init__(self, page, server, address="/"):
        self.page, self.problems = page, []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on(
            "console",
            lambda said: self.problems.append(said.text) if said.type == "error" else None,
        )
        page.on("request", self._at_home(server))
        page.goto(server.address + address)
        self.wait("Boolean(window.gpstoken)")

    def _at_home(self, server):
        def check(request):
            if not request.url.startswith((server.address, "blob:", "data:")):
                self.problems.append(f"asked the internet for {request.url}")

        return check

    def settle(self):
        """Waits until nothing is asked of the server any more and all is drawn."""
        self.wait("Boolean(gpstoken.studio.current?.rebuilt) && !gpstoken.studio.working", first=50)

    def wait(self, condition, first=0):
        self.page.wait_for_timeout(first)
        for _ in range(1200):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"the page does not come to rest: {condition}")

    def open(self, *paths):
        self.page.set_input_files("#file", [str(path) for path in paths])
        self.wait("!document.querySelector('#file').value")  # emptied after the last of them
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

    def said(self, kind="error"):
        """The notice that is shown, once there is one of a kind; takes it away."""
        notice = self.page.locator(f"#notices .{kind}")
        notice.wait_for()
        text = notice.text_content()
        self.page.evaluate("document.getElementById('notices').replaceChildren()")
        return text

    def touch(self, *places):
        """Draws a finger over the rebuilt picture."""
        session = self.page.context.new_cdp_session(self.page)
        ways = ["Start", *["Move"] * (len(places) - 1)]
        for way, place in [*zip(ways, places, strict=True), ("End", None)]:
            self.page.wait_for_timeout(30)  # it rests before it leaves, so nothing is flung
            x, y = self.place(*place) if place is not None else (0, 0)
            points = [] if place is None else [{"x": x, "y": y}]
            session.send("Input.dispatchTouchEvent", {"type": f"touch{way}", "touchPoints": points})
        self.settle()

    def nameless(self):
        """Roles in the accessibility tree that one can act on and that have no name."""
        session = self.page.context.new_cdp_session(self.page)
        session.send("Accessibility.enable")
        nodes = session.send("Accessibility.getFullAXTree")["nodes"]
        roles = {"button", "slider", "checkbox", "radio", "radiogroup", "combobox", "spinbutton",
                 "textbox", "link", "application", "menu", "menuitem", "dialog"}  # fmt: skip
        acting = [n for n in nodes if n.get("role", {}).get("value") in roles and not n["ignored"]]
        assert len(acting) > 20
        return [n for n in acting if not n.get("name", {}).get("value", "").strip()]

    def faint(self):
        """Texts with less contrast than 4.5 to what is behind them (WCAG 2.2, 1.4.3)."""
        return self.page.evaluate(FAINT)

    def tool(self, name):
        self.page.locator(f"[name=tool][value={name}]").check()

    def tap_tool(self, name):
        tool = self.page.locator(f"[name=tool][value={name}]")
        tool.tap(force=True)  # it lies over its label
        self.wait(f"document.querySelector('[name=tool][value={name}]').checked")

    def download(self, button):
        self.page.click("#save")
        with self.page.expect_download() as caught:
            self.page.click(button)
        path = caught.value.path()
        return caught.value.suggested_filename, path.read_bytes()
