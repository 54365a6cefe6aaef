// Mouse, pen and touch on a pane: pick, move, turn, stretch, lasso and paint.

import { axes, gaussian, stretching, turning } from "./gaussians.js";
import { handles } from "./pane.js";

const STILL = 3; // CSS pixels that a click may move

let gestures = 0;

/**
 * Lets a pane be acted on. `tools` has the tool in use: {name, radius} with name "move", "lasso",
 * "more", "less" or "plain"; and what is drawn for it: hovered, lasso, brush.
 */
export function listen(pane, studio, tools) {
  let active = null;
  const { canvas } = pane;

  canvas.addEventListener("pointerdown", (event) => {
    if (!studio.step || (event.pointerType === "mouse" && event.button !== 0)) return;
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    active = begin(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (active) active.move(event);
    else hover(event);
  });
  canvas.addEventListener("pointerup", (event) => {
    active?.end(event);
    active = null;
  });
  canvas.addEventListener("pointercancel", () => {
    active?.cancel?.();
    active = null;
  });
  canvas.addEventListener("pointerleave", () => {
    if (active) return;
    tools.hovered = null;
    tools.brush = null;
    studio.changed("hover");
  });

  function hover(event) {
    if (!studio.step) return;
    const [x, y] = pane.place(event);
    tools.hovered = null;
    tools.brush = null;
    canvas.style.cursor = "crosshair";
    if (tools.name === "move") {
      const handle = handleAt(event);
      tools.hovered = handle ? null : studio.tokenAt(x, y, slack(event));
      canvas.style.cursor = handle || tools.hovered !== null ? "grab" : "default";
    } else if (tools.name !== "lasso") {
      tools.brush = brushAt(x, y);
      canvas.style.cursor = "none";
    }
    studio.changed("hover");
  }

  const brushAt = (x, y) => ({ x, y, radius: tools.radius, less: tools.name === "less" });

  function begin(event) {
    gestures += 1;
    tools.hovered = null;
    if (tools.name === "lasso") return lasso(event);
    if (tools.name !== "move") return paint(event);
    const handle = handleAt(event);
    return handle ? pull(event, handle) : drag(event);
  }

  const slack = (event) => (event.pointerType === "mouse" ? 6 : 18) / pane.scale;

  function handleAt(event) {
    if (studio.selection.length !== 1) return null;
    const shape = gaussian(studio.step.tokens, studio.selection[0], studio.depth, studio.size);
    const [x, y] = pane.place(event);
    const [px, py] = [x * canvas.clientWidth, y * canvas.clientHeight];
    const near = event.pointerType === "mouse" ? 9 : 20;
    return handles(shape, pane.scale).find((at) => Math.hypot(at.x - px, at.y - py) < near) ?? null;
  }

  // ---- Picking and moving -------------------------------------------------------------------------

  function drag(event) {
    const [startX, startY] = pane.place(event);
    const hit = studio.tokenAt(startX, startY, slack(event));
    const from = studio.step;
    let moved = false;
    if (hit !== null && event.shiftKey) toggle(hit);
    else if (hit !== null && !studio.selection.includes(hit)) studio.select([hit]);
    return {
      move(next) {
        const [x, y] = pane.place(next);
        const [dx, dy] = [x - startX, y - startY];
        moved ||= Math.hypot(dx * canvas.clientWidth, dy * canvas.clientHeight) > STILL;
        if (!moved || hit === null) return;
        const offset = [dx * studio.size.width, dy * studio.size.height];
        change(next, { offset }, from, false);
      },
      end(last) {
        if (moved && hit !== null) {
          decide();
        } else if (!moved) {
          const [x, y] = pane.place(last);
          studio.inspected = [x, y];
          if (hit === null) studio.select([]);
          else if (!last.shiftKey) studio.select([hit]);
          studio.changed("selection");
        }
      },
      cancel: undo,
    };
  }

  function toggle(index) {
    const chosen = studio.selection;
    studio.select(chosen.includes(index) ? chosen.filter((i) => i !== index) : [...chosen, index]);
  }

  function pull(event, handle) {
    const from = studio.step;
    const shape = gaussian(from.tokens, studio.selection[0], studio.depth, studio.size);
    const { angle } = axes(shape);
    const offsetOf = (at) => {
      const [x, y] = pane.place(at);
      return [x * studio.size.width - 0.5 - shape.x, y * studio.size.height - 0.5 - shape.y];
    };
    const [x0, y0] = offsetOf(event);
    const direction = handle.kind === "short" ? angle + Math.PI / 2 : angle;
    const along = (x, y) => x * Math.cos(direction) + y * Math.sin(direction);
    return {
      move(next) {
        const [x, y] = offsetOf(next);
        let matrix;
        if (handle.kind === "turn") {
          matrix = turning(Math.atan2(y, x) - Math.atan2(y0, x0));
        } else {
          const factor = Math.min(Math.max(Math.abs(along(x, y) / along(x0, y0)), 0.1), 20);
          matrix = stretching(direction, factor, 1);
        }
        change(next, { matrix }, from, false);
      },
      end: decide,
      cancel: undo,
    };
  }

  function change(event, how, from) {
    tools.timed("edit", event, studio.transform(how, { from, decide: false }));
  }

  function decide() {
    const { preview } = studio.current;
    if (preview) studio.edit({ tokens: preview.tokens });
  }

  function undo() {
    studio.current.preview = null;
    studio.changed();
  }

  // ---- Lasso --------------------------------------------------------------------------------------

  function lasso(event) {
    const points = [pane.place(event)];
    tools.lasso = points;
    return {
      move(next) {
        points.push(pane.place(next));
        studio.changed("hover");
      },
      end() {
        tools.lasso = null;
        if (points.length > 3) studio.selectInside(points);
        else studio.select([]);
        if (studio.selection.length) tools.use("move");
      },
      cancel() {
        tools.lasso = null;
        studio.changed("hover");
      },
    };
  }

  // ---- Painting -----------------------------------------------------------------------------------

  function paint(event) {
    const gesture = `paint ${gestures}`;
    const strength = { more: 127, less: -127, plain: 0 }[tools.name];
    let { focus } = studio.step;
    const dab = (at) => {
      const [x, y] = pane.place(at);
      focus = studio.dab(focus, x, y, tools.radius, strength);
      tools.brush = brushAt(x, y);
      tools.painting = focus;
      studio.changed("hover");
      if (studio.current.photo) tools.timed("paint", at, studio.encode({ focus }, gesture));
    };
    dab(event);
    return { move: dab, end: () => (tools.painting = null), cancel: () => (tools.painting = null) };
  }
}
