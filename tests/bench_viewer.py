"""Latencies of the viewer, in a headless Chromium, from the event to the drawn frame.

    python -m tests.bench_viewer --checkpoint=photos-small
    python -m tests.bench_viewer --checkpoint=photos-small --screenshots=docs/images

Drags a Gaussian, moves the slider and paints, at several numbers of tokens, once everything is
compiled. Prints p50 and p95 in ms of what was shown, and the CPU time of this process (the server)
for each: on an idle machine of two cores nothing can take longer than that, and well threaded work
takes half. What another event overtook is not shown, so not counted.
"""

import argparse
import os
import platform
import shutil
import threading
import time
from pathlib import Path

import jax
import numpy as np
from playwright.sync_api import sync_playwright

from gpstoken_jax import Tokenizer
from gpstoken_jax.programs.cli import use_compilation_cache
from gpstoken_jax.viewer import Engine, create_app
from gpstoken_jax.viewer.shelf import fill_shelf
from tests.viewer.server import Server

COUNTS = (32, 128, 256, 512)
READ = """(kind) => {
  const found = performance.getEntriesByName(`gpstoken:${kind}`).map((entry) => entry.duration);
  performance.clearMeasures();
  return found;
}"""


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="photos-small")
    parser.add_argument("--photo", default="astronaut.png", help="one of those that ship")
    parser.add_argument("--moves", type=int, default=40, help="events of a kind and size")
    parser.add_argument("--screenshots", help="a folder for pictures of the page, and no times")
    options = parser.parse_args()
    use_compilation_cache()
    engine = Engine(Tokenizer.from_pretrained(options.checkpoint))
    engine.warm_up(threading.Event())
    shelf = fill_shelf([])
    if options.screenshots:
        with (
            Server(create_app(engine, shelf, name=options.checkpoint)) as server,
            sync_playwright() as driver,
        ):
            take_screenshots(launch(driver), server.address, Path(options.screenshots))
        return
    shelf = [item for item in shelf if item.name == options.photo]
    print(
        f"{options.checkpoint}, {options.photo}; JAX {jax.__version__}, {os.cpu_count()} cores of "
        f"{platform.machine()}, load {os.getloadavg()[0]:.1f} at the start\n"
    )
    print("| tokens | pixels | what | shown | p50 ms | p95 ms | CPU ms of the server |")
    print("|---|---|---|---|---|---|---|")
    with (
        Server(create_app(engine, shelf, name=options.checkpoint)) as server,
        sync_playwright() as driver,
    ):
        browser = launch(driver)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(server.address)
        settle(page)
        for count in COUNTS:
            measure_size(page, count, options.moves)
        browser.close()
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


def launch(driver):
    """Starts the system's Chromium."""
    arguments = ["--no-sandbox", "--disable-gpu"]
    return driver.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)


def take_screenshots(browser, address: str, folder: Path) -> None:
    """Writes pictures of the page: a desktop in the light, a phone in the dark."""
    for name, width, height, scheme, act in (
        ("viewer_desktop", 1280, 800, "light", edit_a_face),
        ("viewer_paint", 1280, 800, "dark", paint_a_face),
        ("viewer_phone", 400, 860, "dark", edit_a_face),
    ):
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.goto(f"{address}/#photo=astronaut.png&tokens=512")
        settle(page)
        act(page)
        settle(page)
        page.wait_for_timeout(6000)  # until notices are gone
        page.screenshot(path=folder / f"{name}.jpg", type="jpeg", quality=72)
        page.close()


def edit_a_face(page) -> None:
    """Enlarges a token of the face, and asks for the weights of a pixel."""
    page.evaluate(
        """() => {
          const { studio } = gpstoken;
          studio.inspected = [0.46, 0.2];
          studio.select([studio.tokenAt(0.46, 0.2, 20)]);
          return studio.transformTogether([2.6, 0.8, -0.8, 1.6]);
        }"""
    )


def paint_a_face(page) -> None:
    """Asks for more tokens there."""
    page.locator("[name=tool][value=more]").check()
    box = page.locator("#photo").bounding_box()
    places = [(0.4, 0.12), (0.5, 0.14), (0.5, 0.28), (0.42, 0.3), (0.46, 0.2)]
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=5)
    page.mouse.up()


def measure_size(page, count: int, moves: int) -> None:
    """Prints the rows of one number of tokens."""
    encode(page, count)
    size = page.evaluate("(({ width, height }) => `${width} x ${height}`)(gpstoken.studio.size)")
    box = page.locator("#rebuilt").bounding_box()
    rng = np.random.default_rng(count)

    def at(x, y):
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def drag():
        x, y = page.evaluate(
            "(({ step, depth }) => [3, 4].map((k) => (step.tokens[k] + 1) / 2))(gpstoken.studio)"
        )
        page.mouse.move(*at(x, y))
        page.mouse.down()
        for i in range(1, moves + 1):
            page.mouse.move(*at(x + 0.2 * np.sin(i / 5), y + 0.2 - 0.2 * np.cos(i / 5)))
            page.wait_for_timeout(60)
        page.mouse.up()

    def slide():
        slider = page.locator("#tokens")
        for _ in range(moves // 2):
            near = int(rng.integers(count * 3 // 4, count * 5 // 4))
            slider.evaluate(
                """(slider, wanted) => {
                  const { least, most } = gpstoken.studio.current.photo;
                  slider.value = (1000 * Math.log(wanted / least)) / Math.log(most / least);
                  slider.dispatchEvent(new Event("input", { bubbles: true }));
                }""",
                near,
            )
            page.wait_for_timeout(200)

    def paint():
        page.locator("[name=tool][value=more]").check()
        page.mouse.move(*at(0.3, 0.3))
        page.mouse.down()
        for i in range(moves // 2):
            page.mouse.move(*at(0.3 + 0.02 * i, 0.3))
            page.wait_for_timeout(120)
        page.mouse.up()
        page.locator("[name=tool][value=move]").check()

    for kind, title, act in (
        ("edit", "move a Gaussian", drag),
        ("tokens", "another number", slide),
        ("paint", "paint", paint),
    ):
        page.evaluate(READ, kind)
        cpu = time.process_time()
        act()
        settle(page)
        cpu = time.process_time() - cpu
        shown = page.evaluate(READ, kind)
        p50, p95 = np.percentile(shown, [50, 95])
        print(
            f"| {count} | {size} | {title} | {len(shown)} | {p50:.0f} | {p95:.0f} | "
            f"{1000 * cpu / max(len(shown), 1):.0f} |",
            flush=True,
        )
        encode(page, count)


def encode(page, count: int) -> None:
    """Brings the page to a number of tokens, without paint."""
    page.evaluate(
        """(wanted) => {
          const { studio } = gpstoken;
          const focus = { ...studio.step.focus, data: new Int8Array(64 * 64) };
          return studio.encode({ wanted, focus });
        }""",
        count,
    )
    settle(page)


def settle(page) -> None:
    """Waits until nothing is asked of the server any more."""
    calm = 0
    while calm < 3:
        page.wait_for_timeout(50)
        idle = "Boolean(window.gpstoken?.studio.current?.rebuilt) && !gpstoken.studio.working"
        calm = calm + 1 if page.evaluate(idle) else 0


if __name__ == "__main__":
    main()
