// Runs the detector beside the page, so that sliders stay quick. app.js starts it from a blob: a
// worker of that kind is bound by the page's content security policy, as the page is.
import { decodeFile } from "./decode.js";
import { openDetector } from "./detector.js";
import { InputError } from "./errors.js";
import { resize, toBytes } from "./geometry.js";

const RUNTIME = new URL("runtime/", import.meta.url);
let detector = null;

/** The engine, loaded once; the binary is handed over, as some servers call it by a wrong type. */
let engine = null;
async function loadEngine() {
  engine ??= (async () => {
    const ort = await import(new URL("ort.wasm.min.js", RUNTIME).href);
    const answer = await fetch(new URL("ort-wasm-simd-threaded.wasm", RUNTIME));
    if (!answer.ok) throw new InputError("runtime/ort-wasm-simd-threaded.wasm: not found");
    ort.env.wasm.numThreads = 1; // more need a server that isolates the page
    ort.env.wasm.wasmBinary = await answer.arrayBuffer();
    ort.env.wasm.wasmPaths = { mjs: new URL("ort-wasm-simd-threaded.js", RUNTIME).href };
    return ort;
  })();
  return engine;
}

const TASKS = {
  async open({ file, name }) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    const found = await openDetector(await loadEngine(), bytes, name);
    const golden = await found.checkGolden();
    await detector?.session.release();
    detector = found;
    return { document: found.document, form: found.form, golden };
  },

  async score({ file, name }) {
    const image = await decodeFile(file, name);
    const start = performance.now();
    const { map, ...found } = await detector.score(image);
    const milliseconds = performance.now() - start;
    const { height, width } = image;
    const [low, high] = ends(map);
    const small = shrunk({ height, width, values: map, channels: 1 }, MAP_EDGE);
    const photo = await photograph(image);
    return { ...found, height, width, milliseconds, low, high, map: small, photo };
  },
};

// The page keeps a picture and a map of every image: small ones, so that hundreds fit.
const PHOTO_EDGE = 1200;
const MAP_EDGE = 400;

function shrunk({ height, width, values, channels }, edge) {
  const factor = Math.min(1, edge / Math.max(height, width));
  const [h, w] = [height, width].map((one) => Math.max(1, Math.round(one * factor)));
  return { height: h, width: w, values: resize(values, height, width, channels, h, w, "bilinear") };
}

async function photograph({ height, width, pixels }) {
  const bytes = pixels instanceof Uint8Array ? pixels : toBytes(pixels);
  const shown = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) shown.data[4 * i + c] = bytes[3 * i + c];
    shown.data[4 * i + 3] = 255;
  }
  const factor = Math.min(1, PHOTO_EDGE / Math.max(height, width));
  const [h, w] = [height, width].map((one) => Math.max(1, Math.round(one * factor)));
  const canvas = new OffscreenCanvas(w, h);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const bitmap = await createImageBitmap(shown);
  context.drawImage(bitmap, 0, 0, w, h);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
}

function ends(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

// One task after another: the engine takes one run at a time.
let last = Promise.resolve();
self.onmessage = ({ data: { id, task, ...rest } }) => {
  last = last.then(async () => {
    try {
      self.postMessage({ id, value: await TASKS[task](rest) });
    } catch (error) {
      const told = error instanceof InputError ? error.message : `${rest.name}: ${error.message}`;
      self.postMessage({ id, error: told });
    }
  });
};
