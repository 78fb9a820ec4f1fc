// What an exported file says of itself. onnxruntime-web does not give a file's metadata, so they are read here.

import { Problem } from "./problem.js";

/** Of what a file holds, and the entry of the metadata that says so. */
const FORMAT = 1;
const KEY = "onehead";
/** Fields of ONNX: ModelProto's metadata_props, and the key and the value of an entry. */
const METADATA = 14;
const ENTRY_KEY = 1;
const ENTRY_VALUE = 2;
/** The beginning of a file's last entry, the SHA-256 of all bytes before it as 64 letters. */
const SUM_ENTRY = "\x72\x4a\x0a\x06sha256\x12\x40";

/**
 * The document in a file that `onehead export` wrote.
 *
 * @param {Uint8Array} content of the file
 * @param {string} name of the file, for lines to the user
 * @throws {Problem} it is none, or damaged
 */
export async function documentOf(content, name) {
  let text, stored;
  try {
    text = metadata(content).get(KEY);
    stored = text && JSON.parse(text);
  } catch {
    throw new Problem(`${name} is damaged, or no ONNX file.`);
  }
  if (!stored) throw new Problem(`${name} was not written by onehead export: it says nothing of itself.`);
  if (stored.export_format !== FORMAT) {
    throw new Problem(`${name} was exported by another version of onehead (${stored.onehead}).`);
  }
  if (!(await sumFits(content))) throw new Problem(`${name} is damaged: its checksum does not fit. Export it again.`);
  return stored;
}

/** The entries of a model's metadata, as a Map. @throws {RangeError} the bytes are no message. */
function metadata(content) {
  const found = new Map();
  for (const [number, entry] of fieldsOf(content)) {
    if (number !== METADATA) continue;
    const parts = new Map(fieldsOf(entry));
    const [key, value] = [ENTRY_KEY, ENTRY_VALUE].map((part) => new TextDecoder().decode(parts.get(part)));
    found.set(key, value);
  }
  return found;
}

/** The fields of a Protocol Buffers message that have a length, as [number, bytes]; others are passed over. */
function* fieldsOf(bytes) {
  let at = 0;
  const varint = () => {
    // Not by shifts, which are of 32 bits.
    for (let value = 0, scale = 1; at < bytes.length && scale < 2 ** 70; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
    throw new RangeError("no number");
  };
  while (at < bytes.length) {
    const tag = varint();
    const [number, kind] = [Math.floor(tag / 8), tag % 8];
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = varint();
      yield [number, bytes.subarray(at, at + length)];
      at += length;
    } else throw new RangeError("no field");
    if (at > bytes.length) throw new RangeError("ends too early");
  }
}

async function sumFits(content) {
  // A browser has no SHA-256 for a page that came unencrypted from another machine.
  if (!globalThis.crypto?.subtle) return true;
  const end = content.length - SUM_ENTRY.length - 64;
  const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", content.subarray(0, end)));
  const letters = Array.from(sum, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return new TextDecoder().decode(content.subarray(end)) === SUM_ENTRY + letters;
}
