// The strip of pictures: those that are open, and photos to take.

export class Tray {
  #drawn = [];

  constructor(root, studio, open) {
    Object.assign(this, { root, studio, open });
    this.opened = document.createElement("div");
    this.shelf = document.createElement("div");
    this.opened.className = this.shelf.className = "thumbs";
    this.opened.setAttribute("aria-label", "Open pictures");
    this.shelf.setAttribute("aria-label", "Photos to try");
    for (const strip of [this.opened, this.shelf]) strip.setAttribute("role", "group");
    const title = Object.assign(document.createElement("span"), { textContent: "Try", className: "title" });
    root.append(this.opened, title, this.shelf);
    title.hidden = studio.model.shelf.length === 0;
    this.#fillShelf();
  }

  #fillShelf() {
    this.studio.model.shelf.forEach(({ name }, number) => {
      const image = new Image(40, 40);
      Object.assign(image, { src: `/api/shelf/${number}/thumbnail`, alt: "", loading: "lazy" });
      const button = this.#button(`Open ${name}`, image);
      button.addEventListener("click", async () => {
        button.disabled = true;
        await this.open(name, { shelf: number });
        button.disabled = false;
      });
      this.shelf.append(button);
    });
  }

  #button(label, content) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", title: label });
    button.setAttribute("aria-label", label);
    button.append(content);
    return button;
  }

  draw() {
    const { pictures, current } = this.studio;
    const now = pictures.map((picture) => [picture, picture === current, Boolean(this.#thumbnail(picture))]).flat();
    if (now.length === this.#drawn.length && now.every((part, i) => part === this.#drawn[i])) return;
    this.#drawn = now;
    this.opened.replaceChildren(...pictures.map((picture) => {
      const item = document.createElement("span");
      item.className = "item";
      const button = this.#button(`Show ${picture.name}`, this.#thumbnail(picture) ?? document.createElement("canvas"));
      button.setAttribute("aria-pressed", picture === current);
      button.addEventListener("click", () => this.studio.choose(picture));
      const close = this.#button(`Close ${picture.name}`, "×");
      close.className = "close";
      close.addEventListener("click", () => this.studio.close(picture));
      item.append(button, close);
      return item;
    }));
  }

  #thumbnail(picture) {
    picture.thumbnail ??= draw(picture.photo?.picture ?? picture.rebuilt);
    return picture.thumbnail;
  }
}

function draw(pixels) {
  if (!pixels) return null;
  const side = 80;
  const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
  const [height, width] = pixels.shape;
  const image = new ImageData(side, side);
  const scale = Math.min(height, width) / side;
  for (let y = 0; y < side; y += 1) {
    for (let x = 0; x < side; x += 1) {
      const row = Math.floor((height - side * scale) / 2 + y * scale);
      const col = Math.floor((width - side * scale) / 2 + x * scale);
      const from = (row * width + col) * 3;
      image.data.set([...pixels.data.subarray(from, from + 3), 255], (y * side + x) * 4);
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
