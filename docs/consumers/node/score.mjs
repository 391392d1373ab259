// Scores images with an exported detector: a line of JSON an image, as robustad.runtime gives them.
//
//   npm ci --ignore-scripts
//   node score.mjs [--threshold P] [--threads N] [--check] MODEL.onnx IMAGE...
//
// With - in place of images their names are read from standard input, a line each.
// The modules are the viewer page's: they read the metadata, prepare images, and decide.
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

import ort from "onnxruntime-node";

import { decodeExactly } from "../../../robustad/viewer/page/decode.js";
import { openDetector } from "../../../robustad/viewer/page/detector.js";
import { InputError } from "../../../robustad/viewer/page/errors.js";

const USAGE = "usage: node score.mjs [--threshold P] [--threads N] [--check] MODEL.onnx IMAGE...";
// onnxruntime 1.30 searches the process's command line by recursion, and crashes at about 28 kB.
const MOST_ARGUMENTS = 16_000;
const GOLDEN_TOLERANCE = 1e-3; // as robustad.runtime's check_golden

function readArguments() {
  const options = {
    threshold: { type: "string" }, // in place of the file's own
    threads: { type: "string" }, // by default as many as there are cores
    check: { type: "boolean", default: false }, // run the golden image first
  };
  let parsed;
  try {
    parsed = parseArgs({ options, allowPositionals: true });
  } catch (error) {
    throw new InputError(`${error.message}; ${USAGE}`);
  }
  const { values, positionals } = parsed;
  const [model, ...images] = positionals;
  if (!images.length) throw new InputError(USAGE);
  const bytes = process.argv.reduce((sum, one) => sum + Buffer.byteLength(one) + 1, 0);
  if (bytes > MOST_ARGUMENTS) {
    throw new InputError(
      `${images.length} images: arguments of ${bytes} bytes are too many for onnxruntime, expected ` +
        `${MOST_ARGUMENTS} at most; give - and their names on standard input`,
    );
  }
  const { check } = values;
  const probability = (p) => p > 0 && p < 1;
  const count = (n) => Number.isInteger(n) && n >= 1 && n <= 1024;
  const threshold = number("--threshold", values.threshold, "a probability in (0, 1)", probability);
  const threads = number("--threads", values.threads, "an integer from 1 to 1024", count);
  return { model, images, check, threshold, threads };
}

function number(option, text, wanted, fits) {
  if (text === undefined) return undefined;
  const value = text.trim() === "" ? NaN : Number(text);
  if (!fits(value)) throw new InputError(`${option}: expected ${wanted}, got '${text}'`);
  return value;
}

async function readBytes(path) {
  try {
    return await readFile(path);
  } catch (error) {
    const reason = { ENOENT: "no such file", EISDIR: "expected a file, got a folder" }[error.code];
    throw new InputError(`${path}: ${reason ?? error.message}`);
  }
}

async function open({ model, threads, threshold, check }) {
  const options = threads === undefined ? {} : { intraOpNumThreads: threads };
  // opened by its path, so that a .data beside it is found
  const detector = await openDetector(ort, await readBytes(model), model, options, model);
  if (threshold !== undefined) detector.document.policy.threshold = threshold;
  if (check) {
    const difference = await detector.checkGolden();
    if (difference === null) throw new InputError(`${model}: holds no golden image known here`);
    if (!(difference <= GOLDEN_TOLERANCE)) {
      throw new InputError(`${model}: this machine is ${difference} off the file's golden outputs`);
    }
  }
  return detector;
}

async function scoreFile(detector, path) {
  const image = await decodeExactly(await readBytes(path), path);
  if (!image) {
    throw new InputError(`${path}: not an image of a known kind; PNG, PPM and PGM are taken`);
  }
  const found = await detector.score(image, { map: false });
  const { score, probability, entropy, pValue, verdict } = found;
  // what is not known is NaN, which JSON writes as null
  return { name: path, score, probability, entropy, p_value: pValue, verdict };
}

function names(images) {
  if (images.length !== 1 || images[0] !== "-") return images;
  return createInterface({ input: process.stdin, crlfDelay: Infinity });
}

/** One line that names the file, whatever went wrong with it. */
function tell(error, name) {
  const message = String(error?.message ?? error).split("\n")[0];
  console.error(message.startsWith(name) ? message : `${name}: ${message}`);
  process.exitCode = 2;
}

async function main() {
  let given;
  try {
    given = readArguments();
  } catch (error) {
    return tell(error, error instanceof InputError ? "" : "arguments");
  }
  let detector;
  try {
    detector = await open(given);
  } catch (error) {
    return tell(error, given.model);
  }
  for await (const path of names(given.images)) {
    try {
      console.log(JSON.stringify(await scoreFile(detector, path)));
    } catch (error) {
      tell(error, path); // and go on with the next image
    }
  }
}

await main();
