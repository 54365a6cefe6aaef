"use strict";

// A click on a heading sorts its table by that column; another click, the other way round.
const numberOf = (cell) => {
  const text = cell.textContent.trim().replace("−", "-");
  return text === "" || Number.isNaN(Number(text)) ? null : Number(text);
};

const compareCells = (a, b) => {
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x !== null && y !== null) return x - y;
  return a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
};

const sortBy = (table, column) => {
  const headings = [...table.tHead.rows[0].cells];
  const down = headings[column].ariaSort === "ascending";
  for (const heading of headings) heading.ariaSort = null;
  headings[column].ariaSort = down ? "descending" : "ascending";
  const isEmpty = (row) => row.cells[column].textContent.trim() === "–";
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    if (isEmpty(a) !== isEmpty(b)) return isEmpty(a) ? 1 : -1; // what is missing comes last
    return (down ? -1 : 1) * compareCells(a.cells[column], b.cells[column]);
  });
  table.tBodies[0].append(...rows);
};

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sortBy(table, column));
  });
}

// Pictures of one photo, one over the other, with a line between them that follows the slider.
const makeSlider = (photo) => {
  const [original, ...others] = photo.querySelectorAll("img[data-compare]");
  if (!original || others.length === 0) return;
  const choice = document.createElement("select");
  choice.ariaLabel = "Compare the original with";
  others.forEach((image, i) => choice.add(new Option(image.dataset.compare, String(i))));
  const below = original.cloneNode();
  const above = others[0].cloneNode();
  above.className += " above";
  for (const image of [below, above]) image.removeAttribute("data-compare");
  const slider = Object.assign(document.createElement("input"), {
    type: "range", min: "0", max: "100", step: "0.1", value: "50",
    ariaLabel: "Where the original ends and the other picture begins",
  });
  const frame = document.createElement("div");
  frame.className = "frame";
  const cut = () => frame.style.setProperty("--cut", `${slider.value}%`);
  slider.addEventListener("input", cut);
  choice.addEventListener("change", () => {
    above.src = others[Number(choice.value)].src;
    above.alt = others[Number(choice.value)].alt;
  });
  frame.append(below, above, slider);
  const bar = document.createElement("div");
  bar.className = "bar";
  bar.append(original.dataset.compare, choice);
  const compare = document.createElement("div");
  compare.className = "compare";
  compare.append(frame, bar);
  photo.querySelector("header").after(compare);
  cut();
};

for (const photo of document.querySelectorAll(".photo")) makeSlider(photo);
