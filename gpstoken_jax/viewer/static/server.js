// Questions to the server. Whatever goes wrong becomes an Error with words for people.

import { pack, unpack } from "./wire.js";

const ATTEMPTS = 20; // while the server is busy, a fifth of a second apart, then more

async function ask(path, options = {}) {
  for (let attempt = 1; ; attempt += 1) {
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer. Is gpstoken view still running?");
    }
    if (response.ok) return response;
    if (response.status === 503 && attempt < ATTEMPTS) {
      await new Promise((resolve) => setTimeout(resolve, 200 * attempt));
      continue;
    }
    const { error = response.statusText } = await response.json().catch(() => ({}));
    throw Object.assign(new Error(error), { status: response.status });
  }
}

const post = (path, body, signal) => ask(path, { method: "POST", body, signal });
const message = async (response) => unpack(await response.arrayBuffer());

export const model = async () => (await ask("/api/model")).json();
export const warmth = async () => (await ask("/api/warmth")).json();

/** Hands a photo over: {blob} of a file or {shelf} number -> key, limits and pixels. */
export async function photo(source) {
  const response = source.blob
    ? await post("/api/photo", source.blob)
    : await ask(`/api/shelf/${source.shelf}`);
  const { arrays, words } = await message(response);
  return {
    key: words.key,
    least: Number(words.min_tokens),
    most: Number(words.max_tokens),
    picture: arrays.picture,
  };
}

/** Encodes a photo that the server knows -> tokens, layout, tile, rows, cols, picture. */
export async function encode(key, { wanted, focus }, signal) {
  const query = new URLSearchParams({ photo: key, tokens: wanted });
  const painted = focus.data.some((value) => value !== 0);
  const body = painted ? pack({ focus: { data: focus.data, shape: [focus.rows, focus.cols] } }) : null;
  return made(await message(await post(`/api/encode?${query}`, body, signal)));
}

const made = ({ arrays, words }) => ({
  tokens: arrays.tokens.data,
  layout: arrays.layout.data,
  tile: arrays.tile.data,
  rows: Number(words.rows),
  cols: Number(words.cols),
  picture: arrays.picture,
});

function tokensMessage({ tokens, layout, tile }, withLayout) {
  const count = tile.length;
  const arrays = {
    tokens: { data: tokens, shape: [count, count ? tokens.length / count : 0] },
    tile: { data: tile, shape: [count] },
  };
  return pack(withLayout ? { ...arrays, layout: { data: layout, shape: [count, 5] } } : arrays);
}

/** Decodes tokens -> the picture. */
export async function decode(step, signal) {
  const query = new URLSearchParams({ rows: step.rows, cols: step.cols });
  const response = await post(`/api/decode?${query}`, tokensMessage(step, false), signal);
  return (await message(response)).arrays.picture;
}

/** The file of tokens that `gpstoken decode` reads. */
export async function tokenFile(step, name) {
  const query = new URLSearchParams({ rows: step.rows, cols: step.cols, name });
  return (await post(`/api/tokens?${query}`, tokensMessage(step, true))).blob();
}

/** Where the generator's tokens would start in a photo: [L x 5]. */
export async function layout(key) {
  const query = new URLSearchParams({ photo: key });
  return (await message(await post(`/api/layout?${query}`))).arrays.layout.data;
}

/** Draws a new image: {cls, seed, guidance, layout} -> as `encode`. */
export async function generate({ cls, seed, guidance, layout }, signal) {
  const query = new URLSearchParams({ class: cls, seed, guidance });
  const body = layout && pack({ layout: { data: layout, shape: [layout.length / 5, 5] } });
  return made(await message(await post(`/api/generate?${query}`, body, signal)));
}

/**
 * Of many questions the newest: one is asked at a time, of those that came meanwhile only the last.
 * What was dropped resolves to undefined.
 */
export class Latest {
  #running = null;
  #next = null;

  ask(task) {
    this.#next?.resolve(undefined);
    return new Promise((resolve, reject) => {
      this.#next = { task, resolve, reject };
      if (!this.#running) this.#run();
    });
  }

  /** Gives up what is asked and what waits: it is about something else now. */
  drop() {
    this.#next?.resolve(undefined);
    this.#next = null;
    this.#running?.abort();
  }

  async #run() {
    while (this.#next) {
      const { task, resolve, reject } = this.#next;
      this.#next = null;
      this.#running = new AbortController();
      try {
        resolve(await task(this.#running.signal));
      } catch (error) {
        if (error.name === "AbortError") resolve(undefined);
        else reject(error);
      }
    }
    this.#running = null;
  }
}
