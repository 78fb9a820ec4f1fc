// An exported file and what it says of an image: what onehead_runner.py does, in a browser.

import { documentOf } from "./metadata.js";
import { Problem } from "./problem.js";
import { fitted } from "./resize.js";

/**
 * @param {string} address of the file, on this page's origin
 * @throws {Problem} it is not there or cannot be used
 */
export async function openNetwork(address) {
  const name = address.split("/").at(-1);
  const [ort, content] = await Promise.all([onnxruntime(), fetched(address, name)]);
  const stored = await documentOf(content, name);
  let session;
  try {
    session = await ort.InferenceSession.create(content, { executionProviders: ["wasm"], logSeverityLevel: 4 });
  } catch (error) {
    throw new Problem(`${name} cannot be loaded by onnxruntime (${firstLine(error)}).`);
  }
  const network = new Network(ort, session, stored);
  // The first run takes several times as long as those after it, so it is not that of an image.
  await network.run(new Uint8Array(stored.preprocess.image_size ** 2 * 3).fill(128), [1, 1], [1, 1]);
  return network;
}

class Network {
  /** Ends with the run before: onnxruntime does one at a time. */
  #last = Promise.resolve();

  constructor(ort, session, stored) {
    Object.assign(this, { ort, session, document: stored });
  }

  get outputs() {
    return this.session.outputNames;
  }

  /** The class names that an output's numbers stand for; none where the file has no such output. */
  classes(output) {
    return this.document.architecture.classes[this.document.tasks_of_outputs[output]] ?? [];
  }

  /** How a class is called in sentences. */
  title(name) {
    return this.document.titles[name] ?? name;
  }

  /** The network's input of an image, see `fitted`. */
  fitted(image, pause) {
    return fitted(image, this.document.preprocess, pause);
  }

  /**
   * @param {Uint8Array} input from `fitted`
   * @param {[number, number]} size height and width of the image
   * @param {[number, number]} maskSize height and width that the mask is to have
   * @returns {Promise<{outputs: Object, milliseconds: number}>} typed arrays by the outputs' names
   * @throws {Problem}
   */
  run(input, size, maskSize) {
    const result = this.#last.then(() => this.#run(input, size, maskSize));
    this.#last = result.catch(() => undefined);
    return result;
  }

  async #run(input, size, maskSize) {
    const side = this.document.preprocess.image_size;
    const pair = (values) => new this.ort.Tensor("int64", BigInt64Array.from(values, BigInt), [2]);
    const image = new this.ort.Tensor("uint8", input, [side, side, 3]);
    const feed = { image, size: pair(size), mask_size: pair(maskSize) };
    const begin = performance.now();
    let found;
    try {
      found = await this.session.run(feed);
    } catch (error) {
      throw new Problem(`onnxruntime cannot run the network (${firstLine(error)}).`);
    }
    const milliseconds = performance.now() - begin;
    const outputs = Object.fromEntries(Object.entries(found).map(([name, tensor]) => [name, tensor.data]));
    const floats = Object.values(outputs).filter((data) => data instanceof Float32Array);
    const finite = floats.every((data) => data.every(Number.isFinite));
    if (!finite || outputs.mask?.some((label) => label >= this.classes("mask").length)) {
      throw new Problem("The network's outputs are not finite; export it again.");
    }
    return { outputs, milliseconds };
  }

  /** What `onehead predict` says of an image: class, mask and boxes, each where the file has it. */
  record({ probabilities, mask, boxes, scores, labels }) {
    const record = {};
    if (probabilities) {
      const names = this.classes("probabilities");
      const order = names.map((_, index) => index).sort((a, b) => probabilities[b] - probabilities[a]);
      const top5 = order.slice(0, 5).map((index) => ({
        name: names[index],
        title: this.title(names[index]),
        probability: rounded(probabilities[index], 6),
      }));
      record.class = { ...top5[0], top5 };
    }
    if (mask) {
      const counts = new Array(256).fill(0);
      for (const label of mask) counts[label]++;
      const named = this.classes("mask").map((name, label) => [name, counts[label]]);
      record.mask = { pixels: Object.fromEntries(named.filter(([, count]) => count)) };
    }
    if (boxes) {
      const names = this.classes("labels");
      const least = this.document.thresholds.boxes ?? names.map(() => this.document.reading.score_min);
      record.boxes = Array.from(labels, (label, row) => ({
        label: names[label],
        score: rounded(scores[row], 6),
        box: Array.from(boxes.subarray(4 * row, 4 * row + 4), (side) => rounded(side, 3)),
      })).filter((_, row) => scores[row] >= least[labels[row]]);
    }
    return record;
  }
}

async function onnxruntime() {
  let ort;
  try {
    ort = await import("./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs");
  } catch {
    throw new Problem("onnxruntime-web is not here: run npm install in the page's folder and reload.");
  }
  // More threads need a server that isolates the page.
  ort.env.wasm.numThreads = 1;
  return ort;
}

async function fetched(address, name) {
  let answer;
  try {
    answer = await fetch(address, { cache: "no-cache" });
  } catch {
    throw new Problem(`${name} cannot be fetched: is the page's server running?`);
  }
  if (answer.status === 404) throw new Problem(`${name} is not here: README.md says how to export it. Then reload.`);
  if (!answer.ok) throw new Problem(`${name} cannot be fetched (${answer.status}).`);
  return new Uint8Array(await answer.arrayBuffer());
}

function rounded(value, digits) {
  return Number(value.toFixed(digits));
}

function firstLine(error) {
  return String(error?.message ?? error).split("\n")[0];
}
