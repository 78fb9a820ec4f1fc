// The image with its mask tinted and its boxes framed; colours and places of labels are those of onehead's drawings.

const COLOURS =
  "ff4d4d 3cb4ff ffd21f 3ddc72 ff8c2e c77dff 19e0d2 ff5fc4 b4f03c 5b7cff e6a8ff f7c59f " +
  "00a878 b5651d ff9d9d 9fd8ff a89000 8a4fff d81159 7fb800 aaffc3 fff3a0 00708a bc5090";
const PALETTE = COLOURS.split(" ").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
const DARK = "#16181d";
const LIGHT = "#f5f6f8";
const TINT = 0.45;
/** Of a label, in CSS pixels. */
const FONT = 13;

/** A colour [red, green, blue] for each different name, in their order. */
export function classColours(names) {
  return new Map([...new Set(names)].map((name, place) => [name, PALETTE[place] ?? hue((place * 0.618034) % 1)]));
}

export function css([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}

/** A copy of an image of at most so many pixels along each side. */
export function copyOf(image, most) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = bounded(image.width, image.height, most);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** Two sides in their proportion, neither longer than `most`. */
export function bounded(width, height, most) {
  const scale = Math.min(1, most / Math.max(width, height));
  return [width, height].map((length) => Math.max(1, Math.round(length * scale)));
}

/**
 * A mask as a layer over the image: labels above 0 tinted, their contours solid.
 *
 * @param {Uint8Array} mask [height, width]
 * @param {number[][]} colours by label
 */
export function maskLayer(mask, width, height, colours) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const layer = new ImageData(width, height);
  const reach = Math.max(1, Math.round(Math.max(width, height) / 300));
  for (let y = 0, at = 0; y < height; y++) {
    const [up, down] = [Math.min(y, reach) * width, Math.min(height - 1 - y, reach) * width];
    for (let x = 0; x < width; x++, at++) {
      const label = mask[at];
      if (!label) continue;
      const [left, right] = [Math.min(x, reach), Math.min(width - 1 - x, reach)];
      const around = [-up - left, -up, -up + right, -left, right, down - left, down, down + right];
      const contour = around.some((offset) => mask[at + offset] !== label);
      layer.data.set([...colours[label], contour ? 255 : 255 * TINT], 4 * at);
    }
  }
  canvas.getContext("2d").putImageData(layer, 0, 0);
  return canvas;
}

/**
 * @param {HTMLCanvasElement} canvas has the size that it is shown at, `ratio` pixels to a CSS pixel
 * @param {CanvasImageSource[]} layers from below
 * @param {{box: number[], text: string, colour: number[]}[]} boxes in pixels of an image of width x height, the first
 *   on top
 */
export function draw(canvas, layers, boxes, { width, height, ratio }) {
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.imageSmoothingQuality = "high";
  context.clearRect(0, 0, canvas.width, canvas.height);
  for (const layer of layers) context.drawImage(layer, 0, 0, canvas.width, canvas.height);
  context.scale(ratio, ratio);
  const area = [canvas.width / ratio, canvas.height / ratio];
  const scales = [area[0] / width, area[1] / height];
  const scaled = boxes.map(({ box, ...rest }) => ({ ...rest, box: box.map((side, i) => side * scales[i % 2]) }));
  for (const { box: [x1, y1, x2, y2], colour } of [...scaled].reverse()) {
    for (const [style, thick] of [[DARK, 5], [css(colour), 3]]) {
      [context.strokeStyle, context.lineWidth] = [style, thick];
      context.strokeRect(x1 + 1, y1 + 1, Math.max(0, x2 - x1 - 2), Math.max(0, y2 - y1 - 2));
    }
  }
  context.font = `600 ${FONT}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const taken = [];
  for (const { box, text, colour } of scaled) {
    const size = [Math.min(area[0], context.measureText(text).width + 8), FONT + 6];
    const [x, y] = placeLabel(box, size, area, taken);
    taken.push([x, y, x + size[0], y + size[1]]);
    context.fillStyle = css(colour);
    context.fillRect(x, y, ...size);
    context.fillStyle = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 120 ? DARK : LIGHT;
    context.fillText(text, x + 4, y + size[1] / 2 + 0.5, size[0] - 8);
  }
}

/** Where the label of a box stands: at one of its corners where that is free, else below or above. */
function placeLabel([x1, y1, x2, y2], [width, height], area, taken) {
  const left = [[x1, y1 - height], [x1, y1], [x1, y2], [x1, y2 - height]];
  const places = [...left, [x2 - width, y1 - height], [x2 - width, y1]];
  for (let step = 1; step < area[1] / height; step++) {
    places.push([x1, y1 + height * step], [x1, y1 - height * step]);
  }
  const inside = places.map(([x, y]) => [clamped(x, area[0] - width), clamped(y, area[1] - height)]);
  const free = ([x, y]) => !taken.some(([a, b, c, d]) => x < c && a < x + width && y < d && b < y + height);
  return inside.find(free) ?? inside[0];
}

function clamped(value, most) {
  return Math.max(0, Math.min(value, most));
}

/** A colour of saturation .7 and value .95. Args: at: in 0..1. */
function hue(at) {
  return [5, 3, 1].map((n) => {
    const k = (n + at * 6) % 6;
    return Math.round(255 * 0.95 * (1 - 0.7 * Math.max(0, Math.min(k, 4 - k, 1))));
  });
}
