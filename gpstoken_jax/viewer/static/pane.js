// A canvas with a picture and what is drawn over it.

import { axes, gaussian } from "./gaussians.js";

const HANDLE = 4.5; // radius in CSS pixels
const LEAST_AWAY = 16; // of a handle from the centre of a small token
const KNOB_AWAY = 24; // the turning knob, from the end of the long axis
const HUES = 12;
const ACCENT = "#ffd166";

export class Pane {
  #base = document.createElement("canvas");
  #focus = document.createElement("canvas");
  #still = document.createElement("canvas"); // what stays as it is while something is dragged
  #stillOf = [];
  #waiting = false;

  /** `scene` gives what to draw each time, see `draw`. */
  constructor(canvas, scene) {
    this.canvas = canvas;
    this.scene = scene;
    this.hasPicture = false;
    new ResizeObserver(() => this.ask()).observe(canvas);
  }

  /** Sets the picture: {data, shape: [height, width, 3]}, or null. */
  show(picture) {
    this.hasPicture = Boolean(picture);
    if (!picture) return;
    const [height, width] = picture.shape;
    Object.assign(this.#base, { width, height });
    const image = new ImageData(width, height);
    const from = picture.data;
    const to = new Uint32Array(image.data.buffer);
    for (let i = 0, j = 0; i < to.length; i += 1, j += 3) {
      to[i] = 0xff000000 | (from[j + 2] << 16) | (from[j + 1] << 8) | from[j];
    }
    this.#base.getContext("2d").putImageData(image, 0, 0);
  }

  /** The picture alone, as a PNG file. */
  toBlob() {
    return new Promise((resolve) => this.#base.toBlob(resolve, "image/png"));
  }

  /** A pointer's place in [0, 1]. */
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  /** CSS pixels a pixel of the picture. */
  get scale() {
    return this.canvas.clientWidth / this.scene().size.width;
  }

  /** Draws before the next frame; calls `then` after that. */
  ask(then) {
    if (then) (this.#then ??= []).push(then);
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.draw();
      const done = this.#then ?? [];
      this.#then = null;
      done.forEach((call) => call());
    });
  }

  #then = null;

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== w || this.canvas.height !== h) {
      Object.assign(this.canvas, { width: w, height: h });
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    if (this.hasPicture) context.drawImage(this.#base, 0, 0, width, height);
    const scene = this.scene();
    if (!scene.step) return;
    this.#drawStill(scene, ratio);
    context.drawImage(this.#still, 0, 0, width, height);
    this.#drawMoving(context, scene, width, height);
  }

  /**
   * Draws what does not follow the pointer: hundreds of ellipses take a frame's time. Of a step that
   * is not decided yet only what is selected differs.
   */
  #drawStill({ decided, depth, size, focus, show, selection, support }, ratio) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const of = [decided, focus, selection, width, height, ratio, ...Object.values(show)];
    if (of.length === this.#stillOf.length && of.every((part, i) => part === this.#stillOf[i])) return;
    this.#stillOf = of;
    Object.assign(this.#still, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    const context = this.#still.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const scale = width / size.width;
    if (show.focus) this.#drawFocus(context, focus, width, height);
    if (show.regions) drawRegions(context, decided.layout, size, scale);
    if (!show.reach && !show.gaussians) return;
    const chosen = new Set(selection);
    const others = [...decided.tile.keys()].filter((i) => !chosen.has(i));
    const shapes = others.map((i) => gaussian(decided.tokens, i, depth, size));
    if (show.reach) drawReach(context, shapes, scale, support);
    if (show.gaussians) drawEllipses(context, shapes, scale);
  }

  #drawMoving(context, scene, width, height) {
    const { step, depth, size, selection, hovered } = scene;
    const scale = width / size.width;
    const shapeOf = (i) => gaussian(step.tokens, i, depth, size);
    drawChosen(context, selection.filter((i) => i < step.tile.length).map(shapeOf), scale, scene);
    if (hovered !== null && hovered < step.tile.length) {
      outline(context, () => path(context, shapeOf(hovered), scale, 1), "#fff", 1.5);
    }
    if (scene.lasso) drawLasso(context, scene.lasso, width, height);
    if (scene.inspected) drawCross(context, scene.inspected, width, height);
    if (scene.brush) drawBrush(context, scene.brush, width, height);
  }

  #drawFocus(context, { data, rows, cols }, width, height) {
    Object.assign(this.#focus, { width: cols, height: rows });
    const image = new ImageData(cols, rows);
    data.forEach((value, i) => {
      image.data.set(value > 0 ? [255, 140, 0] : [40, 120, 255], i * 4);
      image.data[i * 4 + 3] = Math.abs(value) * 0.9;
    });
    this.#focus.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(this.#focus, 0, 0, width, height);
  }
}

/** Where the handles of a selected token are, in CSS pixels: its axes' ends and a knob to turn. */
export function handles(shape, scale) {
  const { long, short, angle } = axes(shape);
  const [x, y] = [(shape.x + 0.5) * scale, (shape.y + 0.5) * scale];
  const at = (length, direction) => ({
    x: x + Math.cos(direction) * length,
    y: y + Math.sin(direction) * length,
  });
  const reach = Math.max(long * scale, LEAST_AWAY);
  const width = Math.max(short * scale, LEAST_AWAY);
  return [
    { kind: "long", ...at(reach, angle) },
    { kind: "long", ...at(-reach, angle) },
    { kind: "short", ...at(width, angle + Math.PI / 2) },
    { kind: "short", ...at(-width, angle + Math.PI / 2) },
    { kind: "turn", ...at(reach + KNOB_AWAY, angle) },
  ];
}

function path(context, shape, scale, sigmas) {
  const { long, short, angle } = axes(shape);
  const [x, y] = [(shape.x + 0.5) * scale, (shape.y + 0.5) * scale];
  const [a, b] = [long * scale * sigmas, Math.max(short * scale * sigmas, 0.5)];
  context.moveTo(x + Math.cos(angle) * a, y + Math.sin(angle) * a);
  context.ellipse(x, y, a, b, angle, 0, 2 * Math.PI);
}

/** A bright line with a dark edge: it can be seen on anything. */
function outline(context, draw, colour, width) {
  context.beginPath();
  draw();
  context.strokeStyle = "rgb(0 0 0 / 55%)";
  context.lineWidth = width + 1.5;
  context.stroke();
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke();
}

/** All ellipses, warm for small ones, cool for large ones. */
function drawEllipses(context, shapes, scale) {
  const areas = shapes.map(({ sx, sy, rho }) => Math.log(sx * sy * Math.sqrt(1 - rho * rho) + 1e-6));
  const [low, high] = [Math.min(...areas), Math.max(...areas)];
  const groups = Array.from({ length: HUES }, () => []);
  shapes.forEach((shape, i) => {
    const size = (areas[i] - low) / (high - low || 1);
    groups[Math.min(Math.floor(size * HUES), HUES - 1)].push(shape);
  });
  const many = shapes.length > 300;
  for (let group = HUES - 1; group >= 0; group -= 1) {
    const hue = 20 + (190 * group) / (HUES - 1);
    const draw = () => groups[group].forEach((shape) => path(context, shape, scale, 1));
    outline(context, draw, `hsl(${hue} 95% 68%)`, many ? 0.9 : 1.4);
  }
}

/** Where a token draws at all. */
function drawReach(context, shapes, scale, support) {
  context.beginPath();
  for (const { x, y, sx, sy } of shapes) {
    const [w, h] = [sx * support * scale, sy * support * scale];
    context.rect((x + 0.5) * scale - w, (y + 0.5) * scale - h, 2 * w, 2 * h);
  }
  context.setLineDash([3, 4]);
  context.strokeStyle = "rgb(255 255 255 / 28%)";
  context.lineWidth = 1;
  context.stroke();
  context.setLineDash([]);
}

/** The regions that tokens start from: a Gaussian's sigma is two thirds of half its region. */
function drawRegions(context, layout, size, scale) {
  context.beginPath();
  for (let i = 0; i < layout.length / 5; i += 1) {
    const { x, y, sx, sy } = gaussian(layout, i, 5, size);
    const [w, h] = [(1.5 * sx + 0.5) * scale, (1.5 * sy + 0.5) * scale];
    context.rect((x + 0.5) * scale - w, (y + 0.5) * scale - h, 2 * w, 2 * h);
  }
  context.strokeStyle = "rgb(0 0 0 / 45%)";
  context.lineWidth = 2;
  context.stroke();
  context.strokeStyle = "rgb(255 255 255 / 75%)";
  context.lineWidth = 1;
  context.stroke();
}

function drawChosen(context, chosen, scale, { show, support, withHandles }) {
  if (!chosen.length) return;
  if (show.reach) drawReach(context, chosen, scale, support);
  outline(context, () => chosen.forEach((shape) => path(context, shape, scale, 1)), ACCENT, 2.2);
  if (chosen.length > 1) return;
  const [shape] = chosen;
  context.setLineDash([5, 4]);
  outline(context, () => path(context, shape, scale, support), ACCENT, 1);
  context.setLineDash([]);
  if (!withHandles) return;
  const points = handles(shape, scale);
  const knob = points.at(-1);
  outline(context, () => {
    context.moveTo(points[0].x, points[0].y);
    context.lineTo(knob.x, knob.y);
  }, ACCENT, 1.2);
  for (const { kind, x, y } of points) {
    context.beginPath();
    if (kind === "turn") context.arc(x, y, HANDLE + 1, 0, 2 * Math.PI);
    else context.rect(x - HANDLE, y - HANDLE, 2 * HANDLE, 2 * HANDLE);
    context.fillStyle = kind === "turn" ? ACCENT : "#fff";
    context.strokeStyle = "#222";
    context.lineWidth = 1.2;
    context.fill();
    context.stroke();
  }
}

function drawLasso(context, polygon, width, height) {
  context.beginPath();
  polygon.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](x * width, y * height));
  context.closePath();
  context.fillStyle = "rgb(255 209 102 / 18%)";
  context.fill();
  context.strokeStyle = ACCENT;
  context.lineWidth = 1.5;
  context.setLineDash([6, 4]);
  context.stroke();
  context.setLineDash([]);
}

function drawCross(context, [x, y], width, height) {
  const [cx, cy] = [x * width, y * height];
  outline(context, () => {
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(cx + 4 * dx, cy + 4 * dy);
      context.lineTo(cx + 10 * dx, cy + 10 * dy);
    }
  }, "#fff", 1.5);
}

function drawBrush(context, { x, y, radius, less }, width, height) {
  const colour = less ? "#7ab8ff" : "#ffb454";
  outline(context, () => context.arc(x * width, y * height, radius * width, 0, 2 * Math.PI), colour, 2);
}
