// An exported detector in JavaScript: prepares images, runs the file, gives what
// robustad.runtime gives. The engine is handed in: onnxruntime-web or onnxruntime-node.
import { InputError } from "./errors.js";
import { Geometry, toBytes } from "./geometry.js";
import { inputForm, readMetadata } from "./metadata.js";
import { decide, evidence, VERDICTS } from "./policy.js";

const GOLDEN = "quadratic-256";
const NUMBERS = ["score", "probability", "entropy", "verdict"];

/**
 * Load a file's bytes (Uint8Array). `ort` is the engine's module, `options` its session options.
 * `source` is what the engine opens: the same bytes or, for onnxruntime-node, the file's path, so
 * that tensors in a .data beside it are found.
 */
export async function openDetector(ort, bytes, name, options = {}, source = bytes) {
  const document = readMetadata(bytes, name);
  let session;
  try {
    session = await ort.InferenceSession.create(source, {
      logSeverityLevel: 3, // below errors, only that calibration and policy can be overridden
      ...options,
    });
  } catch (error) {
    const reason = String(error?.message ?? error).split("\n")[0];
    const apart = "; files with a .data beside them cannot be run here";
    const external = source === bytes && /external/i.test(reason);
    throw new InputError(
      `${name}: not an ONNX file that can be run: ${reason}${external ? apart : ""}`,
    );
  }
  return new Detector(ort, session, document, name);
}

export class Detector {
  constructor(ort, session, document, name) {
    Object.assign(this, { ort, session, document, name });
    this.geometry = new Geometry(document.geometry);
    this.form = inputForm(document);
  }

  /**
   * Score an image.
   * @param {{height: number, width: number, pixels: Uint8Array|Float32Array}} image RGB, row by
   *   row; bytes, or floats in [0, 1]
   * @param {{map: boolean}} options whether the anomaly map is wanted; bringing it to the size of a
   *   large image takes longer than the score of it
   * @returns score, probability, p-values, entropy (NaN where not known), verdict by the file's own
   *   policy, and the anomaly map (Float32Array) at the image's size, null if not wanted
   */
  async score(image, { map: wanted = true } = {}) {
    const found = await this.run(this.feed(image), wanted ? [...NUMBERS, "anomaly_map"] : NUMBERS);
    const score = found.score.data[0];
    const known = evidence(score, found.probability.data[0], this.document.conformal);
    return {
      score,
      ...known,
      entropy: found.entropy.data[0],
      verdict: decide(this.document.policy, known),
      // what the graph makes of the same numbers; files of before version 3 do not say
      graphVerdict: found.verdict && VERDICTS[Number(found.verdict.data[0])],
      map: wanted ? this.mapOf(found, image) : null,
    };
  }

  mapOf({ anomaly_map: { data } }, { height, width }) {
    return this.form === "uint8_nhwc" ? data : this.geometry.restore(data, height, width);
  }

  /** Run the golden image; the largest difference from what is stored of it, null if nothing is. */
  async checkGolden() {
    const { golden } = this.document;
    if (golden?.recipe !== GOLDEN) return null;
    const { height, width, outputs } = golden;
    const pixels = goldenPixels(height, width);
    const bytes = this.form === "uint8_nhwc";
    const input = bytes ? nhwc(this.ort, { height, width, pixels }) : planes(this.ort, pixels, height, width);
    const found = await this.run(input, ["score", "patch_scores", "anomaly_map"]);
    const patches = found.patch_scores.data;
    const map = found.anomaly_map.data;
    const made = {
      score: found.score.data[0],
      patch_scores_mean: mean(patches),
      patch_scores_max: largest(patches),
      anomaly_map_mean: mean(map),
      anomaly_map_max: largest(map),
    };
    const differences = Object.keys(made).map((key) => Math.abs(made[key] - outputs[key]));
    return differences.some(Number.isNaN) ? NaN : Math.max(...differences);
  }

  async run(input, wanted) {
    const outputs = wanted.filter((one) => this.session.outputNames.includes(one));
    return this.session.run({ image: input }, outputs);
  }

  /** The graph's input: the image as it is, or resized, cropped, and in planes. */
  feed(image) {
    const { height, width } = this.document.input;
    const prepared = this.geometry.prepared(image.height, image.width);
    if (height !== null && (prepared[0] !== height || prepared[1] !== width)) {
      throw new InputError(
        `prepared to ${prepared.join(" x ")} pixels, but ${this.name} takes ${height} x ${width} ` +
          "only; export with dynamic_size=True, with this image_size, or a detector with square=True",
      );
    }
    if (this.form === "uint8_nhwc") return nhwc(this.ort, image);
    const { height: h, width: w, data } = this.geometry.apply(image);
    return new this.ort.Tensor("float32", data, [1, 3, h, w]);
  }
}

function nhwc(ort, { height, width, pixels }) {
  const bytes = pixels instanceof Uint8Array ? pixels : toBytes(pixels);
  return new ort.Tensor("uint8", bytes, [1, height, width, 3]);
}

function planes(ort, pixels, height, width) {
  const data = new Float32Array(pixels.length);
  for (let at = 0; at < height * width; at++) {
    for (let c = 0; c < 3; c++) data[c * height * width + at] = pixels[3 * at + c] / 255;
  }
  return new ort.Tensor("float32", data, [1, 3, height, width]);
}

/** (i * i + 2 * j * j + 3 * i * j + 50 * c) mod 256 at row i, column j, channel c; RGB bytes. */
function goldenPixels(height, width) {
  const pixels = new Uint8Array(height * width * 3);
  let at = 0;
  for (let i = 0; i < height; i++) {
    for (let j = 0; j < width; j++) {
      for (let c = 0; c < 3; c++) pixels[at++] = (i * i + 2 * j * j + 3 * i * j + 50 * c) % 256;
    }
  }
  return pixels;
}

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const largest = (values) => values.reduce((a, b) => (b > a || Number.isNaN(b) ? b : a), -Infinity);
