// One picture on the page: its photo, its tokens, and the steps that led here.

export const FOCUS_SIDE = 64; // cells of the painted map along a side
const MOST_STEPS = 200;

export const noFocus = () => ({
  data: new Int8Array(FOCUS_SIDE * FOCUS_SIDE),
  rows: FOCUS_SIDE,
  cols: FOCUS_SIDE,
});

/**
 * A step is never changed, only followed by another: {tokens, layout, tile, rows, cols, wanted,
 * focus, edited}.
 */
export class Picture {
  #steps = [];
  #at = -1;
  #gesture = null;

  constructor(name, source, photo) {
    this.name = name;
    this.source = source; // {blob} or {shelf}; null for an image that was made here
    this.photo = photo; // {key, least, most, picture}
    this.wanted = null; // tokens, before there is a step
    this.rebuilt = null; // pixels of the step that is shown
    this.preview = null; // a step that is not decided yet
  }

  /** The step to show. */
  get step() {
    return this.preview ?? this.#steps[this.#at] ?? null;
  }

  /** The last step that was decided. */
  get decided() {
    return this.#steps[this.#at] ?? null;
  }

  /** Adds a step; one of the same gesture as the last replaces it. */
  decide(step, gesture = null) {
    const again = gesture !== null && gesture === this.#gesture && this.#at > 0;
    this.#steps.length = again ? this.#at : this.#at + 1;
    this.#steps.push(Object.freeze(step));
    if (this.#steps.length > MOST_STEPS) this.#steps.shift();
    this.#at = this.#steps.length - 1;
    this.#gesture = gesture;
    this.preview = null;
  }

  get canUndo() {
    return this.#at > 0;
  }

  get canRedo() {
    return this.#at + 1 < this.#steps.length;
  }

  /** Goes a step back (-1) or forth (1). */
  travel(direction) {
    this.#at += direction;
    this.#gesture = null;
    this.preview = null;
  }
}

/**
 * PSNR in dB of pixels against the photo's, RGB. A smaller picture is enlarged to the photo's size
 * (bilinear), so that numbers are of one scale whatever the number of tokens.
 */
export function psnr(made, photo) {
  const [height, width] = photo.shape;
  const enlarged = enlarge(made, height, width);
  let sum = 0;
  for (let i = 0; i < enlarged.length; i += 1) sum += (enlarged[i] - photo.data[i]) ** 2;
  return 10 * Math.log10((255 ** 2 * enlarged.length) / Math.max(sum, 1e-9));
}

function enlarge({ data, shape: [h, w] }, height, width) {
  if (h === height && w === width) return data;
  const result = new Float32Array(height * width * 3);
  const down = taps(h, height);
  const across = taps(w, width);
  let at = 0;
  for (const [y0, y1, fy] of down) {
    for (const [x0, x1, fx] of across) {
      for (let c = 0; c < 3; c += 1) {
        const top = data[(y0 * w + x0) * 3 + c] * (1 - fx) + data[(y0 * w + x1) * 3 + c] * fx;
        const low = data[(y1 * w + x0) * 3 + c] * (1 - fx) + data[(y1 * w + x1) * 3 + c] * fx;
        result[at++] = top * (1 - fy) + low * fy;
      }
    }
  }
  return result;
}

function taps(from, to) {
  return Array.from({ length: to }, (_, i) => {
    const place = Math.min(Math.max(((i + 0.5) * from) / to - 0.5, 0), from - 1);
    const before = Math.floor(place);
    return [before, Math.min(before + 1, from - 1), place - before];
  });
}
