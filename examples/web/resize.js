// An image as the network sees it. The network was trained on images that Pillow resized, and a canvas resizes in
// another way; so this is Pillow's way, to the last bit: weights over all pixels that one of the result covers, with 22
// bits behind the point, along rows and along columns, rounded in between.

import { Problem } from "./problem.js";

const BITS = 22;
const GREY = 128;
/** Pixels that are read from the image at a time, so that a large one is never in memory twice. */
const STRIP = 2 ** 20;

/** How far each kernel reaches, and its value at a distance. */
const KERNELS = {
  bilinear: [1, (x) => Math.max(0, 1 - x)],
  // Keys' cubic with a = -0.5.
  bicubic: [2, (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0)],
};

/**
 * An image stretched to the network's square, or scaled and padded with grey.
 *
 * @param {ImageBitmap} image
 * @param {{image_size: number, fit: string, interpolation: string}} preprocess from the file
 * @param {() => Promise<void>} pause is awaited now and then, so that the page stays alive
 * @returns {Promise<Uint8Array>} [S, S, 3]
 */
export async function fitted(image, { image_size: side, fit, interpolation }, pause) {
  if (!Object.hasOwn(KERNELS, interpolation)) throw new Problem(`This page cannot resize by "${interpolation}".`);
  const { width: fromWidth, height: fromHeight } = image;
  const scale = side / Math.max(fromWidth, fromHeight);
  const inner = (length) => (fit === "resize" ? side : Math.max(1, roundHalfEven(length * scale)));
  const [width, height] = [inner(fromWidth), inner(fromHeight)];
  const [left, top] = [(side - width) >> 1, (side - height) >> 1];

  const across = weights(fromWidth, width, interpolation);
  const down = weights(fromHeight, height, interpolation);
  const result = new Uint8ClampedArray(side * side * 3).fill(GREY);
  const start = (top * side + left) * 3;
  // Pillow 13 begins with the columns where most is lost in them; before, it always began with the rows.
  if (fromHeight - height > Math.max(0, 2 * (fromWidth - width))) {
    const low = new Uint8ClampedArray(height * fromWidth * 3);
    await inStrips(image, true, pause, (pixels, x, columns) => {
      for (let i = 0; i < columns; i++) weighted(pixels, i * 4, columns * 4, low, (x + i) * 3, fromWidth * 3, down);
    });
    for (let y = 0; y < height; y++) weighted(low, y * fromWidth * 3, 3, result, start + y * side * 3, 3, across);
  } else {
    const narrow = new Uint8ClampedArray(fromHeight * width * 3);
    await inStrips(image, false, pause, (pixels, y, rows) => {
      for (let i = 0; i < rows; i++) weighted(pixels, i * fromWidth * 4, 4, narrow, (y + i) * width * 3, 3, across);
    });
    for (let x = 0; x < width; x++) weighted(narrow, x * 3, width * 3, result, start + x * 3, side * 3, down);
  }
  return new Uint8Array(result.buffer);
}

/**
 * Reads an image in strips, whole rows or whole columns.
 *
 * @param {boolean} columns or rows
 * @param {(pixels: Uint8ClampedArray, first: number, count: number) => void} take pixels: [height, width, 4]; the first
 *   of the strip's rows or columns, and how many there are
 */
async function inStrips(image, columns, pause, take) {
  const [lines, length] = columns ? [image.width, image.height] : [image.height, image.width];
  const step = Math.min(lines, Math.max(1, Math.floor(STRIP / length)));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = columns ? [step, length] : [length, step];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.globalCompositeOperation = "copy";
  for (let first = 0; first < lines; first += step) {
    const count = Math.min(step, lines - first);
    const [x, y, width, height] = columns ? [first, 0, count, length] : [0, first, length, count];
    context.drawImage(image, x, y, width, height, 0, 0, width, height);
    take(context.getImageData(0, 0, width, height).data, first, count);
    if (count < lines) await pause();
  }
}

/** For each pixel of the result: the first pixel that counts, how many do, and their weights. */
function weights(from, to, interpolation) {
  const [reach, kernel] = KERNELS[interpolation];
  const scale = from / to;
  const stretch = Math.max(1, scale);
  const support = reach * stretch;
  return Array.from({ length: to }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const count = Math.min(from, Math.trunc(centre + support + 0.5)) - first;
    const values = Array.from({ length: count }, (_, i) => kernel(Math.abs((i + first - centre + 0.5) / stretch)));
    const sum = values.reduce((a, b) => a + b);
    return [first, Int32Array.from(values, (value) => Math.round((value / sum) * 2 ** BITS))];
  });
}

/** One row or column of three colours. step: from one pixel to the next. */
function weighted(from, fromStart, fromStep, to, toStart, toStep, lines) {
  let target = toStart;
  for (const [first, factors] of lines) {
    let source = fromStart + first * fromStep;
    let red = 1 << (BITS - 1);
    let [green, blue] = [red, red];
    for (let i = 0; i < factors.length; i++, source += fromStep) {
      red += factors[i] * from[source];
      green += factors[i] * from[source + 1];
      blue += factors[i] * from[source + 2];
    }
    to[target] = red >> BITS;
    to[target + 1] = green >> BITS;
    to[target + 2] = blue >> BITS;
    target += toStep;
  }
}

/** As Python rounds. */
function roundHalfEven(value) {
  const below = Math.floor(value);
  return value - below === 0.5 ? below + (below % 2) : Math.round(value);
}
