// The page: controls to the studio, the studio to canvases and figures.

import * as files from "./files.js";
import * as server from "./server.js";
import { gaussian, stretching, tokensAt, turning } from "./gaussians.js";
import { listen } from "./gestures.js";
import { Generator } from "./generator.js";
import { Pane } from "./pane.js";
import { psnr } from "./picture.js";
import { Studio, counted } from "./studio.js";
import { Tray } from "./tray.js";

const $ = (id) => document.getElementById(id);
const BYTES_A_VALUE = 4;
const NUDGE_PAUSE = 800; // ms; nudges that follow each other sooner are undone as one

const model = await server.model().catch((error) => {
  $("about").textContent = error.message;
  throw error;
});
const studio = new Studio(model);
const tools = {
  name: "move", radius: 0.12, hovered: null, lasso: null, brush: null, painting: null, use: useTool, timed,
};
const tray = new Tray($("tray"), studio, open);

// ---- Canvases -------------------------------------------------------------------------------------

const panes = Object.fromEntries(["photo", "rebuilt"].map((name) => [name, new Pane($(name), () => scene(name))]));
for (const pane of Object.values(panes)) listen(pane, studio, tools);

function scene(name) {
  const { step } = studio;
  if (!step) return { step: null, size: { width: 1, height: 1 } };
  const on = (what) => $(`show-${what}`).checked;
  const rebuilt = name === "rebuilt";
  return {
    step,
    decided: studio.current.decided ?? step,
    focus: tools.painting ?? step.focus,
    depth: studio.depth,
    size: studio.size,
    support: model.support,
    show: {
      gaussians: on("gaussians") && rebuilt,
      reach: on("reach") && rebuilt,
      regions: on("regions") && !rebuilt,
      focus: on("focus") && (!rebuilt || tools.painting !== null), // it would tint the result
    },
    selection: studio.selection,
    hovered: tools.hovered,
    lasso: tools.lasso,
    brush: tools.brush,
    inspected: studio.inspected,
    withHandles: tools.name === "move",
  };
}

/** Records how long it took until what an event led to was on the screen. */
async function timed(kind, event, answer) {
  if (!(await answer)) return;
  panes.rebuilt.ask(() => performance.measure(`gpstoken:${kind}`, { start: event.timeStamp }));
}

let shown = null;
studio.addEventListener("change", ({ detail }) => {
  const { current } = studio;
  if (detail === "work") {
    $("status").classList.toggle("working", studio.working > 0);
    return;
  }
  if (detail === "all") {
    showPictures(current);
    showFacts(current);
    tray.draw();
  }
  if (detail !== "hover") showSelection();
  panes.photo.ask();
  panes.rebuilt.ask();
});

function showPictures(current) {
  panes.rebuilt.show(current?.rebuilt ?? null);
  if (shown !== current) {
    shown = current;
    panes.photo.show(current?.photo?.picture ?? null);
    watchWarmth(); // a photo of another shape has sizes of its own
    $("photo-caption").textContent = current?.photo ? `Photo: ${current.name}` : "Made without a photo";
  }
  if (!current?.step) return;
  const { width, height } = studio.size;
  for (const pane of Object.values(panes)) pane.canvas.style.aspectRatio = `${width} / ${height}`;
  document.body.style.setProperty("--aspect", width / height);
}

function showFacts(current) {
  const step = current?.step;
  for (const id of ["save", "tokens"]) $(id).disabled = !step;
  $("tokens").disabled = !current?.photo;
  $("undo").disabled = !current?.canUndo;
  $("redo").disabled = !current?.canRedo;
  if (!step) return;
  const count = step.tile.length;
  const values = count * studio.depth;
  const { width, height } = studio.size;
  $("tokens-out").textContent = count;
  if (document.activeElement !== $("tokens") || !sliding) $("tokens").value = toSlider(step.wanted);
  $("tokens").setAttribute("aria-valuetext", counted(count));
  const first = step.edited ? "" : ". Drag an ellipse, and the picture follows.";
  $("rebuilt-caption").textContent = `Rebuilt from ${counted(count)}, ${width} × ${height} pixels${first}`;
  $("values").textContent = values.toLocaleString("en");
  $("bytes").textContent = inBytes(values * BYTES_A_VALUE);
  const likeness = current.photo && current.rebuilt ? psnr(current.rebuilt, current.photo.picture) : null;
  $("psnr").textContent = likeness === null ? "–" : `${likeness.toFixed(1)} dB`;
}

const inBytes = (bytes) => (bytes < 1024 ? `${bytes} B` : `${(bytes / 1024).toFixed(1)} KB`);

function showSelection() {
  const count = studio.step ? studio.selection.length : 0;
  $("selection-title").textContent = count ? `${counted(count)} selected` : "Nothing selected";
  $("selection-hint").hidden = count > 0;
  for (const button of $("edits").children) {
    const edit = button.dataset.edit;
    button.disabled = !studio.step || (edit === "paste" ? !studio.clipboard : edit === "swap" ? count !== 2 : !count);
  }
  showWeights();
}

function showWeights() {
  const { step, inspected } = studio;
  const list = $("weights");
  $("pixel-hint").hidden = Boolean(step && inspected);
  list.replaceChildren();
  if (!step || !inspected) return;
  const { width, height } = studio.size;
  const [x, y] = [inspected[0] * width - 0.5, inspected[1] * height - 0.5];
  const found = tokensAt(step.tokens, studio.depth, studio.size, x, y, model.support).slice(0, 8);
  if (!found.length) list.append(Object.assign(document.createElement("li"), { textContent: "No token reaches this pixel." }));
  for (const { index, weight } of found) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", studio.selection.includes(index));
    const bar = document.createElement("meter");
    Object.assign(bar, { min: 0, max: 1, value: weight });
    bar.setAttribute("aria-hidden", "true");
    const name = Object.assign(document.createElement("span"), { textContent: `Token ${index + 1}` });
    const share = Object.assign(document.createElement("span"), { textContent: weight.toFixed(2) });
    button.append(name, bar, share);
    button.addEventListener("click", () => studio.select([index]));
    button.addEventListener("pointerenter", () => { tools.hovered = index; studio.changed("hover"); });
    button.addEventListener("pointerleave", () => { tools.hovered = null; studio.changed("hover"); });
    item.append(button);
    list.append(item);
  }
}

// ---- Number of tokens -----------------------------------------------------------------------------

let sliding = false;
let slides = 0;
const limits = () => studio.current?.photo ?? { least: 8, most: 1024 };
const toSlider = (count) => {
  const { least, most } = limits();
  return Math.round((1000 * Math.log(count / least)) / Math.log(most / least));
};
const fromSlider = (value) => {
  const { least, most } = limits();
  return Math.round(least * (most / least) ** (value / 1000));
};
$("tokens").addEventListener("input", (event) => {
  sliding = true;
  const wanted = fromSlider(Number($("tokens").value));
  $("tokens-out").textContent = wanted;
  timed("tokens", event, studio.encode({ wanted }, `slide ${slides}`));
});
$("tokens").addEventListener("change", () => {
  sliding = false;
  slides += 1;
});

function stepTokens(factor) {
  const { least, most } = limits();
  const wanted = Math.min(Math.max(Math.round(studio.step.wanted * factor), least), most);
  return studio.encode({ wanted }, "step tokens");
}

// ---- Tools and edits --------------------------------------------------------------------------------

function useTool(name) {
  tools.name = name;
  document.querySelector(`[name=tool][value=${name}]`).checked = true;
  $("brush-field").classList.toggle("on", !["move", "lasso"].includes(name));
  Object.assign(tools, { hovered: null, brush: null });
  studio.changed("hover");
}
document.querySelectorAll("[name=tool]").forEach((radio) =>
  radio.addEventListener("change", () => useTool(radio.value)));
$("brush").addEventListener("input", () => { tools.radius = $("brush").value / 100; });

const edits = {
  "turn-left": () => studio.transformTogether(turning(-Math.PI / 12), nudge("turn")),
  "turn-right": () => studio.transformTogether(turning(Math.PI / 12), nudge("turn")),
  larger: () => studio.transformTogether(stretching(0, 1.15, 1.15), nudge("size")),
  smaller: () => studio.transformTogether(stretching(0, 1 / 1.15, 1 / 1.15), nudge("size")),
  duplicate: () => studio.duplicate(),
  remove: () => studio.remove(),
  swap: () => studio.swapTexture(),
  copy: () => studio.copy(),
  paste: () => studio.paste(),
};
for (const button of $("edits").children) button.addEventListener("click", () => edits[button.dataset.edit]());

let nudged = { kind: "", at: 0, number: 0 };

/** Nudges of one kind in quick succession are one step to undo. */
function nudge(kind) {
  const again = nudged.kind === kind && performance.now() - nudged.at < NUDGE_PAUSE;
  nudged = { kind, at: performance.now(), number: nudged.number + (again ? 0 : 1) };
  return { gesture: `${kind} ${nudged.number}` };
}

document.querySelectorAll(".checks input").forEach((box) => box.addEventListener("change", () => studio.changed("hover")));
$("undo").addEventListener("click", () => studio.travel(-1));
$("redo").addEventListener("click", () => studio.travel(1));

// ---- Keyboard ---------------------------------------------------------------------------------------

const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const keys = {
  v: () => useTool("move"), l: () => useTool("lasso"), b: () => useTool("more"), n: () => useTool("less"),
  e: () => useTool("plain"), a: () => studio.select([...studio.step.tile.keys()]),
  "[": edits["turn-left"], "]": edits["turn-right"], "+": edits.larger, "=": edits.larger, "-": edits.smaller,
  d: edits.duplicate, x: edits.swap, Delete: edits.remove, Backspace: edits.remove,
  ",": () => stepTokens(1 / 1.2), ".": () => stepTokens(1.2),
  Escape: () => { studio.inspected = null; studio.select([]); },
  PageUp: () => studio.selectNext(-1), PageDown: () => studio.selectNext(1),
};
const controls = { z: () => studio.travel(-1), y: () => studio.travel(1), d: edits.duplicate };

const ofSliders = /^(Arrow|Page|Home|End)/;

document.addEventListener("keydown", (event) => {
  if (event.target.closest("input[type=number], select, dialog, [popover]")) return;
  if (event.target.type === "range" && ofSliders.test(event.key)) return;
  if (event.key === "Escape" && document.querySelector(":popover-open")) return; // it closes that
  if (event.key === "?") return void $("help-dialog").showModal();
  if (!studio.step || event.altKey) return;
  const command = event.ctrlKey || event.metaKey;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  let action = command ? controls[key] : keys[key];
  if (command && key === "z" && event.shiftKey) action = () => studio.travel(1);
  if (!command && arrows[key] && studio.selection.length && !event.target.closest("[name=tool]")) {
    const offset = arrows[key].map((along) => along * (event.shiftKey ? 8 : 1));
    action = () => timed("edit", event, studio.transform({ offset }, nudge("move")));
  }
  if (!action) return;
  event.preventDefault();
  action();
});

// ---- Opening ----------------------------------------------------------------------------------------

async function open(name, source, settings) {
  try {
    return await studio.open(name, source, settings);
  } catch (error) {
    studio.notice(`${name}: ${error.message}`, "error");
    return null;
  }
}

/** Opens what the address asks for. */
async function openAddressed() {
  for (const { number, settings } of files.fromAddress(location.hash, model)) {
    await open(model.shelf[number].name, { shelf: number }, settings);
  }
}

async function openFiles(list) {
  for (const file of list) {
    if (file.name.endsWith(".json")) await files.openPage(file, studio, open);
    else if (file.size > model.max_bytes) studio.notice(`${file.name} is too large: at most ${model.max_bytes >> 20} MB.`, "error");
    else await open(file.name, { blob: file });
  }
}

$("open").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => {
  await openFiles([...$("file").files]);
  $("file").value = "";
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").hidden = true;
});
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").hidden = true;
  openFiles([...event.dataTransfer.files]);
});
// The keys for copy and paste are the browser's: a photo comes from its clipboard, and tokens that are
// copied take the photo's place there.
addEventListener("copy", (event) => {
  if (String(getSelection()) || !studio.selection.length) return; // text that is marked
  event.preventDefault();
  event.clipboardData.setData("text/plain", counted(studio.selection.length));
  studio.copy();
});
addEventListener("paste", (event) => {
  const pasted = [...event.clipboardData.files];
  if (pasted.length) openFiles(pasted);
  else studio.paste();
});
addEventListener("hashchange", openAddressed);

// ---- Saving -----------------------------------------------------------------------------------------

const saves = {
  picture: async () => files.download(await panes.rebuilt.toBlob(), `${stem()}.png`),
  tokens: async () => files.download(await server.tokenFile(studio.step, stem()), `${stem()}.safetensors`),
  page: () => files.savePage(studio, model),
};
const stem = () => files.stem(studio.current.name);
for (const [name, save] of Object.entries(saves)) {
  $(`save-${name}`).addEventListener("click", async () => {
    $("save-menu").hidePopover();
    try {
      await save();
    } catch (error) {
      studio.notice(error.message, "error");
    }
  });
}
$("show-command").addEventListener("click", () => {
  $("save-menu").hidePopover();
  const { decode, view, link } = files.commands(studio, model);
  $("command-decode").textContent = decode;
  $("command-view").textContent = view;
  $("command-link").href = link;
  $("command-link").textContent = link;
  for (const [id, text] of [["command-again", view], ["command-address", link]]) $(id).hidden = !text;
  $("command-dialog").showModal();
});

// ---- The frame --------------------------------------------------------------------------------------

$("help").addEventListener("click", () => $("help-dialog").showModal());
$("theme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
});
document.querySelectorAll(".views button").forEach((button) => button.addEventListener("click", () => {
  document.querySelector(".panes").dataset.view = button.dataset.view;
  document.querySelectorAll(".views button").forEach((other) => other.setAttribute("aria-pressed", other === button));
}));

studio.addEventListener("notice", ({ detail: { text, kind } }) => {
  const line = Object.assign(document.createElement("p"), { textContent: text, className: kind });
  $("notices").replaceChildren(line);
  setTimeout(() => line.remove(), kind === "error" ? 9000 : 5000);
});

let watching = false;

/** Tells how far the server is with compiling, until it is through. */
async function watchWarmth() {
  if (watching) return;
  watching = true;
  for (;;) {
    const { ready, of } = await server.warmth().catch(() => ({ ready: 0, of: 0 }));
    if (ready >= of) break;
    $("status").textContent = `Warming up: ${ready} of ${of} sizes ready. Until then, the first use of a size is slow.`;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  $("status").textContent = "Ready";
  watching = false;
}

$("about").textContent = `${model.checkpoint}, step ${model.step.toLocaleString("en")}: ${model.tile}-pixel tiles`;
new Generator(studio, model);
window.gpstoken = { studio, panes, gaussian }; // for tests and for the curious
showFacts(null);
showSelection();
watchWarmth();
await openAddressed();
