"use strict";
// What a reader gains from scripts: sorting, filtering, copying, and enlarged figures.

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function button(text, action) {
  return element("button", { type: "button", onclick: action }, text);
}

/* Numbers before text, and what is missing last in either direction. */
function compare(a, b, sign) {
  const [x, y] = [a, b].map((cell) => cell.dataset.value);
  if (x !== undefined && y !== undefined) {
    return Number(x) === Number(y) ? 0 : sign * (Number(x) < Number(y) ? -1 : 1);
  }
  if (x !== undefined || y !== undefined) return x !== undefined ? -1 : 1;
  return sign * a.textContent.localeCompare(b.textContent, "en", { numeric: true });
}

function sort(header) {
  const body = header.closest("table").tBodies[0];
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const place = header.cellIndex;
  const rows = [...body.rows];
  rows.sort((a, b) => compare(a.cells[place], b.cells[place], ascending ? 1 : -1));
  body.append(...rows);
}

function filter(box, words) {
  const wanted = words.toLowerCase().split(/\s+/);
  for (const row of box.querySelector("tbody").rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !wanted.every((word) => text.includes(word));
  }
}

async function copy(link, pressed) {
  const text = decodeURIComponent(link.href.slice(link.href.indexOf(",") + 1));
  try {
    await navigator.clipboard.writeText(text);
    pressed.textContent = "Copied";
  } catch {
    pressed.textContent = "Not allowed here: use the CSV link";
  }
  setTimeout(() => { pressed.textContent = "Copy as CSV"; }, 2000);
}

for (const box of document.querySelectorAll(".table")) {
  for (const header of box.querySelectorAll("th")) {
    header.replaceChildren(button(header.textContent, () => sort(header)));
  }
  const tools = box.querySelector(".tools");
  const link = tools.querySelector("a");
  const copying = button("Copy as CSV", () => copy(link, copying));
  tools.append(copying);
  if ("filter" in box.dataset) {
    const input = element("input", { type: "search", placeholder: "Filter rows" });
    input.setAttribute("aria-label", "Filter rows");
    input.oninput = () => filter(box, input.value);
    tools.prepend(input);
  }
}

const dialog = document.querySelector("dialog");
const view = dialog.querySelector(".view");
const large = view.querySelector("img");
let scale = 1;

function zoom(factor) {
  scale = Math.min(Math.max(scale * factor, 1), 8);
  large.style.width = `${fitted() * scale}px`;
  large.style.height = "auto";
}

/* The width at which all of the figure is in view. */
function fitted() {
  const shape = large.naturalWidth / large.naturalHeight;
  // A pixel less in height, so that rounding brings no scroll bar.
  return Math.min(view.clientWidth, (view.clientHeight - 1) * shape);
}

function enlarge(image) {
  large.src = image.src;
  large.alt = image.alt;
  dialog.showModal();
  scale = 1;
  large.style.width = "0";
  large.decode().then(() => zoom(1));
  view.focus();
}

for (const figure of document.querySelectorAll("figure")) {
  const image = figure.querySelector("img");
  const opener = button("", () => enlarge(image));
  opener.className = "card";
  opener.title = "Enlarge";
  figure.querySelector(".card").replaceWith(opener);
  opener.append(image);
  const name = figure.dataset.file;
  const save = element("a", { download: name, href: image.src }, name.split(".").pop().toUpperCase());
  figure.append(element("p", { className: "tools" }, save));
}

for (const pressed of dialog.querySelectorAll("[data-zoom]")) {
  pressed.onclick = () => zoom(Number(pressed.dataset.zoom));
}
dialog.querySelector("[data-close]").onclick = () => dialog.close();
dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };
dialog.onkeydown = (event) => {
  if (event.key === "+" || event.key === "=") zoom(1.25);
  if (event.key === "-") zoom(0.8);
};
view.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(event.deltaY < 0 ? 1.1 : 1 / 1.1);
}, { passive: false });
