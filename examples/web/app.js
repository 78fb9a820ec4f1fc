// The page: takes images, asks the network, shows what it says.

import { bounded, classColours, copyOf, css, draw, maskLayer } from "./drawing.js";
import { openNetwork } from "./network.js";
import { Problem } from "./problem.js";

/** Larger images are refused, as onehead does. */
const MAX_PIXELS = 100_000_000;
/** The longest side of the mask, and of the image as it is kept to be drawn. */
const MASK_SIDE = 1024;
const DRAWING_SIDE = 2048;

const element = (id) => document.getElementById(id);
const [drawing, line, problem, result] = ["drawing", "status", "problem", "result"].map(element);

/** The images given so far: what belongs to an earlier one is not shown. */
let turn = 0;
/** What is on the page; null before the first image and after one that failed. */
let shown = null;

// ?model=other.onnx is another file; the page's policy keeps it to this origin.
const network = openNetwork(new URLSearchParams(location.search).get("model") || "student.onnx");
network.then(
  ({ document: stored, outputs }) => {
    if (turn) return;
    const parts = [["probabilities", "class"], ["mask", "mask"], ["boxes", "boxes"]];
    const names = parts.filter(([output]) => outputs.includes(output)).map(([, name]) => name);
    say(`Ready: a network of ${stored.preprocess.image_size} px for ${names.join(", ")}.`);
  },
  (error) => complain(error),
);

element("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = ""; // the same file may be chosen again
  if (file) show(file);
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    const outside = kind === "drop" || (kind === "dragleave" && !event.relatedTarget);
    document.body.classList.toggle("dragging", !outside);
    if (kind !== "drop") return;
    const [file] = event.dataTransfer.files;
    if (file) show(file);
    else complain(new Problem("That was not a file. Save the image and drop it from a folder."));
  });
}
for (const id of ["show-mask", "show-boxes"]) element(id).addEventListener("change", redraw);
new ResizeObserver(redraw).observe(result);

async function show(file) {
  const mine = ++turn;
  const late = () => mine !== turn;
  say(`Reading ${file.name} …`);
  try {
    const found = await lookAt(file, late);
    if (found && !late()) present(found);
  } catch (error) {
    if (!late()) complain(error);
  }
}

/** All that is shown of an image; nothing where another came in the meantime. */
async function lookAt(file, late) {
  const pause = () => new Promise((resolve) => setTimeout(resolve));
  const [opened, image] = await Promise.all([network, decoded(file)]);
  try {
    if (late()) return;
    const { width, height } = image;
    const input = await opened.fitted(image, async () => {
      await pause();
      if (late()) throw new Problem("another image came");
    });
    const [maskWidth, maskHeight] = bounded(width, height, MASK_SIDE);
    const picture = copyOf(image, DRAWING_SIDE);
    await pause(); // shows the line above before the network takes its time
    const { outputs, milliseconds } = await opened.run(input, [height, width], [maskHeight, maskWidth]);
    const record = { file: file.name, width, height, ...opened.record(outputs) };
    return { opened, picture, outputs, record, maskWidth, maskHeight, milliseconds };
  } finally {
    image.close();
  }
}

/** @throws {Problem} it is no image, or too large */
async function decoded(file) {
  let image;
  try {
    // As the pixels are stored, turned upright.
    image = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Problem(`${file.name} is no image that this browser can read.`);
  }
  if (image.width * image.height > MAX_PIXELS) {
    const size = `${image.width} × ${image.height}`;
    image.close();
    throw new Problem(`${file.name}: ${size} pixels are over the limit of ${MAX_PIXELS.toLocaleString("en")}.`);
  }
  return image;
}

function present({ opened, picture, outputs, record, maskWidth, maskHeight, milliseconds }) {
  const { width, height } = record;
  // Boxes before masks: a class keeps the colour that it has in onehead's drawings.
  const colours = classColours([...opened.classes("labels"), ...opened.classes("mask").slice(1)]);
  const tints = opened.classes("mask").map((name, label) => label && colours.get(name)); // the background has none
  const boxes = (record.boxes ?? []).map(({ label, score, box }) => ({
    box,
    colour: colours.get(label),
    text: `${opened.title(label)} ${score.toFixed(2)}`,
  }));
  const layer = outputs.mask && maskLayer(outputs.mask, maskWidth, maskHeight, tints);
  shown = { picture, width, height, boxes, layer };

  for (const part of ["class", "mask", "boxes"]) element(part).hidden = !record[part];
  for (const part of ["mask", "boxes"]) element(`show-${part}`).parentElement.hidden = !record[part];
  fill("#class ol", record.class?.top5, ({ title, probability }) => {
    const item = make("li", make("span", title), make("span", percent(probability)));
    item.style.setProperty("--share", `${100 * probability}%`);
    return item;
  });
  element("boxes").classList.toggle("empty", !record.boxes?.length);
  fill("#boxes tbody", record.boxes, ({ label, score, box: [left, top, right, bottom] }) => {
    const places = [left, top, right, bottom].map(Math.round);
    const place = `${places[0]}, ${places[1]} – ${places[2]}, ${places[3]}`;
    return row(opened.title(label), colours.get(label), score.toFixed(2), place);
  });
  const pixels = Object.entries(record.mask?.pixels ?? {}).sort(([, a], [, b]) => b - a);
  fill("#mask tbody", pixels, ([name, count]) => {
    const share = percent(count / (maskWidth * maskHeight));
    return row(opened.title(name), tints[opened.classes("mask").indexOf(name)], share, count.toLocaleString("en"));
  });
  element("mask-size").hidden = maskWidth === width && maskHeight === height;
  element("mask-size").textContent = `The image is large, so its mask has ${maskWidth} × ${maskHeight} pixels.`;
  element("record").textContent = JSON.stringify(record, null, 1);
  drawing.setAttribute("aria-label", `${record.file} with its mask and boxes, which the lists beside it name`);
  result.hidden = false;
  say(`${record.file}: ${width} × ${height} pixels, ${Math.round(milliseconds)} ms in the network.`);
  redraw();
}

/** Draws at the size that the page has room for. */
function redraw() {
  if (!shown) return;
  const { picture, width, height, boxes, layer } = shown;
  const room = drawing.parentElement.clientWidth;
  const scale = Math.min(room / width, Math.max(320, innerHeight * 0.75) / height);
  const ratio = devicePixelRatio;
  const sides = [width, height].map((length) => Math.max(1, Math.round(length * scale)));
  [drawing.width, drawing.height] = sides.map((length) => Math.round(length * ratio));
  [drawing.style.width, drawing.style.height] = sides.map((length) => `${length}px`);
  const layers = [picture, ...(layer && element("show-mask").checked ? [layer] : [])];
  draw(drawing, layers, element("show-boxes").checked ? boxes : [], { width, height, ratio });
}

function say(text) {
  line.textContent = text;
  problem.hidden = true;
}

/** One line on what went wrong; what was shown of an earlier image goes. */
function complain(error) {
  if (!(error instanceof Problem)) console.error(error);
  problem.textContent = error instanceof Problem ? error.message : `The page failed (${error?.message ?? error}).`;
  problem.hidden = false;
  line.textContent = "";
  result.hidden = true;
  shown = null;
}

function fill(selector, values, made) {
  document.querySelector(selector).replaceChildren(...(values ?? []).map(made));
}

/** A row of a table, the first cell with the colour of a class. */
function row(name, colour, ...cells) {
  const swatch = make("span");
  swatch.className = "swatch";
  if (colour) swatch.style.background = css(colour);
  const head = make("th", swatch, name);
  head.scope = "row";
  return make("tr", head, ...cells.map((cell) => make("td", cell)));
}

function make(tag, ...children) {
  const made = document.createElement(tag);
  made.append(...children);
  return made;
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}
