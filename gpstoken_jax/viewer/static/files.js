// What leaves the page and comes back: downloads, the page as a file, commands, the address.

import { Picture, noFocus } from "./picture.js";

const KIND = "gpstoken view";
const VERSION = 1;

export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A file's name without what follows the last dot, and without what file systems dislike. */
export const stem = (name) =>
  name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}._-]+/gu, "_").replace(/^[.-]+/, "") || "picture";

// ---- The page as a file -----------------------------------------------------------------------------

/** Downloads everything that is open as one file, which `openPage` reads. */
export async function savePage(studio, model) {
  const pictures = [];
  for (const picture of studio.pictures) {
    if (!picture.decided) continue; // it is being opened
    const { tokens, layout, tile, focus, rows, cols, wanted, edited } = picture.decided;
    pictures.push({
      name: picture.name,
      source: await sourceText(picture.source, model),
      rows,
      cols,
      wanted,
      edited,
      tokens: toText(tokens),
      layout: toText(layout),
      tile: toText(tile),
      focus: toText(focus.data),
    });
  }
  const current = studio.pictures.filter(({ decided }) => decided).indexOf(studio.current);
  const { checkpoint, step, features, tile } = model;
  const page = { kind: KIND, version: VERSION, model: { checkpoint, step, features, tile }, current, pictures };
  download(new Blob([JSON.stringify(page)], { type: "application/json" }), `${stem(studio.current.name)}.gpstoken.json`);
}

async function sourceText(source, model) {
  if (!source) return null;
  if (source.blob) return { file: toText(new Uint8Array(await source.blob.arrayBuffer())) };
  return { shelf: model.shelf[source.shelf].name };
}

/** Opens a file of `savePage` in addition to what is open. */
export async function openPage(file, studio, open) {
  const { model } = studio;
  let page;
  try {
    page = JSON.parse(await file.text());
    if (page.kind !== KIND || page.version !== VERSION || !Array.isArray(page.pictures)) throw new Error();
  } catch {
    return studio.notice(`${file.name} is no page that was saved here.`, "error");
  }
  if (page.model?.features !== model.features || page.model.tile !== model.tile) {
    return studio.notice(`${file.name} is of another model, ${page.model?.checkpoint}.`, "error");
  }
  if (page.model.step !== model.step) studio.notice(`${file.name} was made with other weights.`);
  const before = studio.pictures.length;
  for (const [number, saved] of page.pictures.entries()) {
    const name = String(saved?.name ?? `picture ${number + 1}`);
    try {
      const step = readStep(saved ?? {}, studio.depth);
      const source = readSource(saved.source, model);
      if (source) await open(name, source, { step });
      else await showWithoutPhoto(studio, name, step);
    } catch (error) {
      studio.notice(`${file.name}: ${name} cannot be opened: ${error.message}`, "error");
    }
  }
  const chosen = studio.pictures[before + page.current];
  if (chosen && chosen !== studio.current) await studio.choose(chosen);
  return null;
}

function showWithoutPhoto(studio, name, step) {
  const picture = new Picture(name, null, null);
  picture.decide(step);
  return studio.add(picture);
}

/** Reads a step; whatever is wrong with it, it is found here. */
function readStep({ rows, cols, wanted, edited, ...texts }, depth) {
  const floats = (text) => new Float32Array(fromText(text).buffer);
  let step;
  try {
    step = {
      tokens: floats(texts.tokens),
      layout: floats(texts.layout),
      tile: new Uint16Array(fromText(texts.tile).buffer),
      focus: { ...noFocus(), data: new Int8Array(fromText(texts.focus).buffer) },
      rows,
      cols,
      wanted,
      edited: Boolean(edited),
    };
  } catch {
    throw new Error("it is damaged");
  }
  const { tokens, layout, tile, focus } = step;
  const whole = tokens.length === tile.length * depth && layout.length === tile.length * 5
    && focus.data.length === noFocus().data.length
    && [rows, cols, wanted].every((number) => Number.isInteger(number) && number > 0 && number < 1e5)
    && tile.every((number) => number < rows * cols) && [tokens, layout].every((array) => array.every(Number.isFinite));
  if (!whole) throw new Error("it is damaged");
  return step;
}

function readSource(source, model) {
  if (!source) return null;
  if (source.file) return { blob: new Blob([fromText(source.file)]) };
  const shelf = model.shelf.findIndex(({ name }) => name === source.shelf);
  if (shelf < 0) throw new Error(`${source.shelf} is not here`);
  return { shelf };
}

function toText(array) {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

const fromText = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

// ---- Commands and the address -------------------------------------------------------------------------

const quote = (text) => (/^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** How to get the same from a command line, and an address that opens it; "" is what cannot be had. */
export function commands({ current, step }, { checkpoint, shelf }) {
  const name = stem(current.name);
  const weights = `--checkpoint=${quote(checkpoint)}`;
  const commands = {
    decode: `gpstoken decode ${weights} --tokens=${quote(`${name}.safetensors`)} --output=${quote(`${name}_decoded`)}`,
    view: "",
    link: "",
  };
  if (current.source) commands.view = `gpstoken view ${quote(current.name.replace(/^-/, "./-"))} ${weights} --num_tokens=${step.wanted}`;
  if (current.source?.shelf !== undefined) {
    const asked = new URLSearchParams({ photo: shelf[current.source.shelf].name, tokens: step.wanted });
    commands.link = `${location.origin}/#${asked}`;
  }
  return commands;
}

/** What the address asks to open; else the photos of the command line, else the first to try. */
export function fromAddress(hash, { shelf, num_tokens: given }) {
  const asked = new URLSearchParams(hash.slice(1));
  const wanted = Math.round(Number(asked.get("tokens"))) || given;
  const settings = wanted ? { wanted } : {};
  const named = shelf.findIndex(({ name }) => name === asked.get("photo"));
  if (named >= 0) return [{ number: named, settings }];
  const numbers = shelf.flatMap((item, number) => (item.given ? [number] : []));
  return (numbers.length ? numbers : shelf.length ? [0] : []).map((number) => ({ number, settings }));
}
