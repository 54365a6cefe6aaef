// New pictures, if the server has a generator.

import * as server from "./server.js";
import { Picture, noFocus } from "./picture.js";

const $ = (id) => document.getElementById(id);

export class Generator {
  constructor(studio, model) {
    this.studio = studio;
    this.about = model.generator;
    if (!this.about) return;
    $("generate").hidden = false;
    this.about.classes.forEach((name, label) => $("gen-class").append(new Option(name, label)));
    $("gen-class").closest("label").hidden = this.about.classes.length < 2;
    $("gen-guidance").value = this.about.guidance;
    $("gen-guidance").closest("label").hidden = !this.about.guided;
    const places = { new: "drawn anew", photo: "as in this photo", now: "as the ellipses lie now" };
    for (const [value, text] of Object.entries(places)) {
      if (value !== "new" || this.about.layouts) $("gen-layout").append(new Option(text, value));
    }
    $("generate-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.make().catch((error) => studio.notice(error.message, "error"));
    });
  }

  async make() {
    const { studio } = this;
    const cls = $("gen-class").value;
    const layout = await this.#layout($("gen-layout").value);
    const seed = Number($("gen-seed").value);
    const made = await server.generate({ cls, seed, guidance: $("gen-guidance").value, layout });
    const name = `${$("gen-class").selectedOptions[0]?.text ?? "picture"}_${seed}`;
    const picture = new Picture(name, null, null);
    const { picture: rebuilt, ...step } = made;
    picture.decide({ ...step, wanted: step.tile.length, focus: noFocus(), edited: false });
    picture.rebuilt = rebuilt;
    studio.add(picture);
    $("gen-seed").value = seed + 1;
  }

  /** Places for the new tokens; null is for the generator to draw. */
  async #layout(choice) {
    const { tokens: wanted } = this.about;
    if (choice === "new") return null;
    const { current, step } = this.studio;
    if (!step) throw new Error("Open a picture first: its places are asked for.");
    if (choice === "photo") {
      if (!current.photo) throw new Error("This picture has no photo.");
      return server.layout(current.photo.key);
    }
    if (step.tile.length !== wanted) {
      throw new Error(`The generator draws ${wanted} tokens; there are ${step.tile.length} now.`);
    }
    const { depth } = this.studio;
    return Float32Array.from({ length: wanted * 5 }, (_, i) => step.tokens[Math.floor(i / 5) * depth + (i % 5)]);
  }
}
