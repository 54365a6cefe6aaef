// Tokens as places: pure functions on arrays [L x D] of (sigma_x, sigma_y, rho, mu_x, mu_y, ...).
// Shapes are in pixels of a picture of width x height, where -1 and 1 are centres of outer pixels.

const MAX_RHO = 0.995;
const MAX_MU = 1.5;
const MIN_SIGMA = 0.2; // pixels

/** Centre and covariance of token i, in pixels. */
export function gaussian(tokens, i, depth, { width, height }) {
  const [sigmaX, sigmaY, rho, muX, muY] = tokens.subarray(i * depth, i * depth + 5);
  const sx = (sigmaX * (width - 1)) / 2;
  const sy = (sigmaY * (height - 1)) / 2;
  return {
    x: ((muX + 1) / 2) * (width - 1),
    y: ((muY + 1) / 2) * (height - 1),
    sx,
    sy,
    rho,
    xx: sx * sx,
    xy: rho * sx * sy,
    yy: sy * sy,
  };
}

/** The one-sigma ellipse of a covariance: half axes (long, short) and the long one's angle. */
export function axes({ xx, xy, yy }) {
  const middle = (xx + yy) / 2;
  const spread = Math.hypot((xx - yy) / 2, xy);
  return {
    long: Math.sqrt(middle + spread),
    short: Math.sqrt(Math.max(middle - spread, 0)),
    angle: Math.atan2(2 * xy, xx - yy) / 2,
  };
}

/** How much token i counts at a pixel: its weight in the sum that is drawn, 0 outside its reach. */
export function weightAt(shape, x, y, support) {
  const u = (x - shape.x) / shape.sx;
  const v = (y - shape.y) / shape.sy;
  if (Math.abs(u) > support || Math.abs(v) > support) return 0;
  const rest = Math.max(1 - shape.rho ** 2, 1e-6);
  return Math.exp(-(u * u - 2 * shape.rho * u * v + v * v) / (2 * rest));
}

/** Tokens at a pixel with their weights, the heaviest first. */
export function tokensAt(tokens, depth, size, x, y, support, least = 0.01) {
  const found = [];
  for (let i = 0; i < tokens.length / depth; i += 1) {
    const weight = weightAt(gaussian(tokens, i, depth, size), x, y, support);
    if (weight >= least) found.push({ index: i, weight });
  }
  return found.sort((a, b) => b.weight - a.weight);
}

/**
 * Tokens with some of them moved by `offset` and changed by the 2 x 2 `matrix`, in pixels; about a
 * point, or each about its own centre.
 */
export function transform(tokens, chosen, depth, size, { matrix = null, about = null, offset = [0, 0] }) {
  const changed = tokens.slice();
  const halfX = (size.width - 1) / 2;
  const halfY = (size.height - 1) / 2;
  for (const i of chosen) {
    const shape = gaussian(tokens, i, depth, size);
    let { x, y } = shape;
    if (matrix) {
      const { sx, sy, rho } = mapped(shape, matrix);
      changed[i * depth] = sx / halfX;
      changed[i * depth + 1] = sy / halfY;
      changed[i * depth + 2] = rho;
      if (about) {
        const [dx, dy] = [x - about.x, y - about.y];
        x = about.x + matrix[0] * dx + matrix[1] * dy;
        y = about.y + matrix[2] * dx + matrix[3] * dy;
      }
    }
    changed[i * depth + 3] = clamp((x + offset[0]) / halfX - 1, -MAX_MU, MAX_MU);
    changed[i * depth + 4] = clamp((y + offset[1]) / halfY - 1, -MAX_MU, MAX_MU);
  }
  return changed;
}

function mapped({ xx, xy, yy }, [a, b, c, d]) {
  const sx = Math.sqrt(a * a * xx + 2 * a * b * xy + b * b * yy);
  const sy = Math.sqrt(c * c * xx + 2 * c * d * xy + d * d * yy);
  const cross = a * c * xx + (a * d + b * c) * xy + b * d * yy;
  return {
    sx: Math.max(sx, MIN_SIGMA),
    sy: Math.max(sy, MIN_SIGMA),
    rho: clamp(cross / Math.max(sx * sy, 1e-9), -MAX_RHO, MAX_RHO),
  };
}

/** Turns clockwise, as the picture is seen. */
export function turning(radians) {
  const [cos, sin] = [Math.cos(radians), Math.sin(radians)];
  return [cos, -sin, sin, cos];
}

/** Stretches by `along` in the direction of an angle, and by `across` across it. */
export function stretching(angle, along, across) {
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const mixed = (along - across) * cos * sin;
  return [
    along * cos * cos + across * sin * sin,
    mixed,
    mixed,
    along * sin * sin + across * cos * cos,
  ];
}

/** Centre of some tokens, in pixels. */
export function centre(tokens, chosen, depth, size) {
  let [x, y] = [0, 0];
  for (const i of chosen) {
    const shape = gaussian(tokens, i, depth, size);
    x += shape.x / chosen.length;
    y += shape.y / chosen.length;
  }
  return { x, y };
}

/** The tokens that are kept, in order, with their layout and tiles. */
export function pick(made, kept, depth) {
  const rows = (data, step) => {
    const result = new data.constructor(kept.length * step);
    kept.forEach((i, j) => result.set(data.subarray(i * step, (i + 1) * step), j * step));
    return result;
  };
  return { tokens: rows(made.tokens, depth), layout: rows(made.layout, 5), tile: rows(made.tile, 1) };
}

/** Two sets of tokens as one. */
export function join(first, second) {
  const both = (name) => {
    const result = new first[name].constructor(first[name].length + second[name].length);
    result.set(first[name]);
    result.set(second[name], first[name].length);
    return result;
  };
  return { tokens: both("tokens"), layout: both("layout"), tile: both("tile") };
}

/** Exchanges what two tokens look like; where they are stays. */
export function swapTexture(tokens, first, second, depth) {
  const changed = tokens.slice();
  const texture = (i) => tokens.subarray(i * depth + 5, (i + 1) * depth);
  changed.set(texture(second), first * depth + 5);
  changed.set(texture(first), second * depth + 5);
  return changed;
}

/** Whether a point is inside a polygon [[x, y], ...]. */
export function inside(polygon, x, y) {
  let within = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i, i += 1) {
    const [[x1, y1], [x2, y2]] = [polygon[i], polygon[j]];
    if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) within = !within;
  }
  return within;
}

/** Number of the tile that a place in [-1, 1] lies in. */
export function tileAt(muX, muY, { rows, cols }) {
  const along = (mu, count) => clamp(Math.floor(((mu + 1) / 2) * count), 0, count - 1);
  return along(muY, rows) * cols + along(muX, cols);
}

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
