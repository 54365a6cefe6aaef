// What the page knows and can do, without the page: pictures, the selection, and every edit.

import * as server from "./server.js";
import {
  centre, clamp, gaussian, inside, join, pick, swapTexture, tileAt, transform,
} from "./gaussians.js";
import { FOCUS_SIDE, Picture, noFocus } from "./picture.js";

const FIRST_TOKENS = 256;

/** Emits "change" when something is to be drawn anew, and "notice" with words for the user. */
export class Studio extends EventTarget {
  pictures = [];
  current = null;
  selection = [];
  region = null; // that the selection was found in
  clipboard = null;
  inspected = null; // a place in [0, 1]
  working = 0; // questions that are open
  #latest = new server.Latest();

  constructor(model) {
    super();
    this.model = model;
    this.depth = 5 + model.features;
  }

  get step() {
    return this.current?.step ?? null;
  }

  /** (width, height) in pixels of the picture that is rebuilt. */
  get size() {
    const { rows, cols } = this.step;
    return { width: cols * this.model.tile, height: rows * this.model.tile };
  }

  changed(what = "all") {
    this.dispatchEvent(new CustomEvent("change", { detail: what }));
  }

  notice(text, kind = "note") {
    this.dispatchEvent(new CustomEvent("notice", { detail: { text, kind } }));
  }

  // ---- Pictures -----------------------------------------------------------------------------------

  /** Opens a photo {blob} or {shelf}. */
  async open(name, source, settings = {}) {
    const photo = await this.#busy(() => server.photo(source));
    const picture = new Picture(name, source, photo);
    const { step = null, wanted = FIRST_TOKENS } = settings;
    if (step) picture.decide(step);
    picture.wanted = clamp(wanted, photo.least, photo.most);
    await this.add(picture);
    return picture;
  }

  /** Puts a picture into the tray and on the stage. */
  add(picture) {
    this.pictures.push(picture);
    return this.choose(picture);
  }

  /** Puts a picture on the stage; what was not finished for it when it left is asked again. */
  choose(picture) {
    this.#latest.drop();
    if (this.current) this.current.preview = null;
    this.current = picture;
    this.selection = [];
    this.inspected = null;
    this.changed();
    if (!picture || (picture.step && picture.rebuilt)) return null;
    if (picture.step) return this.#decode(picture, picture.step);
    return this.encode({ wanted: picture.wanted, focus: noFocus() });
  }

  close(picture) {
    const at = this.pictures.indexOf(picture);
    this.pictures.splice(at, 1);
    if (picture === this.current) this.choose(this.pictures[Math.max(at - 1, 0)] ?? null);
    this.changed();
  }

  // ---- Asking the server ------------------------------------------------------------------------

  async #busy(task) {
    this.working += 1;
    this.changed("work");
    try {
      return await task();
    } finally {
      this.working -= 1;
      this.changed("work");
    }
  }

  /** Asks for the newest of all questions; false if it was dropped or failed. */
  async #ask(picture, task, take) {
    try {
      const answer = await this.#busy(() => this.#latest.ask(task));
      if (answer === undefined || picture !== this.current) return false;
      take(answer);
      this.changed();
      return true;
    } catch (error) {
      picture.preview = null;
      this.notice(error.message, "error");
      this.changed();
      return false;
    }
  }

  /** Encodes the photo again, with other settings. What was edited can be had back by undo. */
  encode(settings, gesture = null) {
    const picture = this.current;
    const { wanted, focus } = { ...picture.decided, ...settings };
    const edited = picture.decided?.edited;
    const task = async (signal) => {
      try {
        return await server.encode(picture.photo.key, { wanted, focus }, signal);
      } catch (error) {
        if (error.status !== 404) throw error;
        picture.photo = await server.photo(picture.source); // the server has forgotten it
        return server.encode(picture.photo.key, { wanted, focus }, signal);
      }
    };
    return this.#ask(picture, task, ({ picture: rebuilt, ...made }) => {
      picture.decide({ ...made, wanted, focus, edited: false }, gesture);
      picture.rebuilt = rebuilt;
      this.selection = [];
      if (edited) this.notice("Made anew from the photo. Undo brings your edits back.");
    });
  }

  /** Shows other tokens; a step that is not decided yet, unless `gesture` is given. */
  async edit(changes, { decide = true, gesture = null } = {}) {
    const picture = this.current;
    const step = { ...picture.decided, ...changes, edited: true };
    if (decide) picture.decide(step, gesture);
    else picture.preview = step;
    this.changed("tokens");
    return this.#decode(picture, step);
  }

  #decode(picture, step) {
    return this.#ask(picture, (signal) => server.decode(step, signal), (rebuilt) => {
      picture.rebuilt = rebuilt;
    });
  }

  /** Goes a step back (-1) or forth (1). */
  travel(direction) {
    const picture = this.current;
    if (!picture || !(direction < 0 ? picture.canUndo : picture.canRedo)) return false;
    picture.travel(direction);
    const count = picture.step.tile.length;
    this.selection = this.selection.filter((i) => i < count);
    this.changed();
    return this.#decode(picture, picture.step);
  }

  // ---- The selection ----------------------------------------------------------------------------

  /** Selects tokens; `region` is the polygon that they were found in, if they were. */
  select(indices, region = null) {
    this.selection = [...new Set(indices)];
    this.region = region;
    this.changed("selection");
  }

  /** Selects what has its centre in a polygon of places in [0, 1]. */
  selectInside(polygon) {
    this.select(this.#inside(this.step, polygon), polygon);
  }

  #inside(step, polygon) {
    const found = [];
    for (let i = 0; i < step.tile.length; i += 1) {
      const [x, y] = [3, 4].map((k) => (step.tokens[i * this.depth + k] + 1) / 2);
      if (inside(polygon, x, y)) found.push(i);
    }
    return found;
  }

  /** Selects the token after (1) or before (-1) the selected one. */
  selectNext(direction) {
    const count = this.step.tile.length;
    const from = this.selection[0] ?? (direction > 0 ? -1 : 0);
    if (count) this.select([(from + direction + count) % count]);
  }

  // ---- Edits of the selection -------------------------------------------------------------------

  /** Moves, turns or stretches what is selected, see `gaussians.transform`. */
  transform(change, options = {}) {
    if (!this.selection.length) return null;
    const from = options.from ?? this.step;
    const tokens = transform(from.tokens, this.selection, this.depth, this.size, change);
    return this.edit({ tokens }, options);
  }

  /** Turns or stretches each about its own centre, or several about their common one. */
  transformTogether(matrix, options = {}) {
    const several = this.selection.length > 1;
    const about = several ? centre(this.step.tokens, this.selection, this.depth, this.size) : null;
    return this.transform({ matrix, about }, options);
  }

  remove() {
    if (!this.selection.length) return null;
    const gone = new Set(this.selection);
    const kept = [...this.step.tile.keys()].filter((i) => !gone.has(i));
    this.selection = [];
    return this.edit(pick(this.step, kept, this.depth));
  }

  duplicate() {
    if (!this.selection.length) return null;
    const { step, depth, size } = this;
    const copies = pick(step, this.selection, depth);
    const all = [...copies.tile.keys()];
    const apart = [size.width / 32, size.height / 32];
    copies.tokens = transform(copies.tokens, all, depth, size, { offset: apart });
    return this.#append(step, copies);
  }

  #append(step, more) {
    const made = join(step, more);
    const counts = new Map();
    for (const tile of made.tile) counts.set(tile, (counts.get(tile) ?? 0) + 1);
    if (Math.max(...counts.values()) > this.model.most_in_tile) {
      this.notice("There is no room for more tokens in this place.", "error");
      return null;
    }
    const first = step.tile.length;
    this.selection = [...more.tile.keys()].map((i) => first + i);
    return this.edit(made);
  }

  /** Exchanges what the two selected tokens look like. */
  swapTexture() {
    if (this.selection.length !== 2) return null;
    const [first, second] = this.selection;
    return this.edit({ tokens: swapTexture(this.step.tokens, first, second, this.depth) });
  }

  copy() {
    if (!this.selection.length) return;
    this.clipboard = { ...pick(this.step, this.selection, this.depth), region: this.region };
    this.notice(`Copied ${counted(this.selection.length)}. Open another picture and paste.`);
    this.changed("selection");
  }

  /** Puts what was copied in the same place here; what lies in a copied region makes way. */
  paste() {
    if (!this.clipboard || !this.step) return null;
    const { step, depth, clipboard } = this;
    const gone = new Set(clipboard.region ? this.#inside(step, clipboard.region) : []);
    const kept = pick(step, [...step.tile.keys()].filter((i) => !gone.has(i)), depth);
    const tile = Uint16Array.from(clipboard.tile.keys(), (i) =>
      tileAt(clipboard.tokens[i * depth + 3], clipboard.tokens[i * depth + 4], step));
    return this.#append({ ...step, ...kept }, { ...clipboard, tile });
  }

  // ---- Focus ------------------------------------------------------------------------------------

  /** The painted map after a dab at (x, y) in [0, 1] with a radius of the width's share. */
  dab(focus, x, y, radius, strength) {
    const { data } = focus;
    const painted = data.slice();
    const { width, height } = this.size;
    for (let row = 0; row < FOCUS_SIDE; row += 1) {
      for (let col = 0; col < FOCUS_SIDE; col += 1) {
        const dx = (col + 0.5) / FOCUS_SIDE - x;
        const dy = (((row + 0.5) / FOCUS_SIDE - y) * height) / width;
        const softness = clamp(1.5 - Math.hypot(dx, dy) / radius, 0, 1);
        const wanted = softness * Math.abs(strength);
        const at = row * FOCUS_SIDE + col;
        if (strength === 0) painted[at] *= 1 - softness;
        else if (wanted > painted[at] * Math.sign(strength)) painted[at] = wanted * Math.sign(strength);
      }
    }
    return { ...focus, data: painted };
  }

  /** The token that a place in [0, 1] most clearly belongs to, within `slack` pixels. */
  tokenAt(x, y, slack) {
    const { width, height } = this.size;
    const [px, py] = [x * width - 0.5, y * height - 0.5];
    let best = null;
    let nearest = Infinity;
    for (let i = 0; i < this.step.tile.length; i += 1) {
      const shape = gaussian(this.step.tokens, i, this.depth, this.size);
      const rest = Math.max(1 - shape.rho ** 2, 1e-3);
      const [u, v] = [(px - shape.x) / shape.sx, (py - shape.y) / shape.sy];
      const steps = Math.sqrt((u * u - 2 * shape.rho * u * v + v * v) / rest);
      const reached = steps < 1.5 || Math.hypot(px - shape.x, py - shape.y) < slack;
      const distance = this.selection.includes(i) ? steps / 2 : steps;
      if (reached && distance < nearest) [best, nearest] = [i, distance];
    }
    return best;
  }
}

export const counted = (count) => (count === 1 ? "1 token" : `${count} tokens`);
