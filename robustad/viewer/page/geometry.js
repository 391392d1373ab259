// From an image of any size to the size a detector sees, and back: robustad/geometry.py, number by
// number. Canvas and image elements resize otherwise, and would move scores.
import { InputError } from "./errors.js";

const MAX_PIXELS = 1 << 26;
const f32 = Math.fround;

/** Resize the smaller edge, then crop the centre to a multiple of the patch size. */
export class Geometry {
  constructor({ size, multiple, square }) {
    Object.assign(this, { size, multiple, square });
  }

  /** Height and width after resizing, before the crop. */
  resized(height, width) {
    if (this.square) return [this.size, this.size];
    const scale = this.size / Math.min(height, width);
    if (scale * scale * height * width > MAX_PIXELS) {
      throw new InputError(
        `an image of ${height} x ${width} pixels would be resized to about ` +
          `${Math.round(height * scale)} x ${Math.round(width * scale)}, more than ` +
          `${MAX_PIXELS} pixels; cut it into pieces`,
      );
    }
    return [height, width].map((edge) => Math.max(this.size, roundHalfEven(edge * scale)));
  }

  /** Top, left, height and width of the centre crop of a resized image. */
  crop(height, width) {
    const inner = [height, width].map((edge) => edge - (edge % this.multiple));
    const [top, left] = [height, width].map((edge, i) => Math.floor((edge - inner[i]) / 2));
    return [top, left, ...inner];
  }

  /** Height and width after resizing and cropping. */
  prepared(height, width) {
    return this.crop(...this.resized(height, width)).slice(2);
  }

  /**
   * Resize and crop an image.
   * @param {{height: number, width: number, pixels: Uint8Array|Float32Array}} image row by row, RGB
   * @returns {{height: number, width: number, data: Float32Array}} planes of (3, height, width)
   */
  apply({ height, width, pixels }) {
    const values = pixels instanceof Uint8Array ? toFloats(pixels) : pixels;
    const [resizedH, resizedW] = this.resized(height, width);
    const [top, left, h, w] = this.crop(resizedH, resizedW);
    const out = resize(values, height, width, 3, resizedH, resizedW, "bicubic");
    const data = new Float32Array(3 * h * w);
    for (let i = 0; i < h; i++) {
      for (let j = 0; j < w; j++) {
        const from = 3 * ((top + i) * resizedW + left + j);
        for (let c = 0; c < 3; c++) {
          data[(c * h + i) * w + j] = Math.min(1, Math.max(0, out[from + c]));
        }
      }
    }
    return { height: h, width: w, data };
  }

  /** Bring a map (Float32Array) of the prepared image back to the size of the original. */
  restore(map, height, width) {
    const [resizedH, resizedW] = this.resized(height, width);
    const [top, left, h, w] = this.crop(resizedH, resizedW);
    if (map.length !== h * w) {
      throw new InputError(`a map of ${h} x ${w} values was expected, got ${map.length}`);
    }
    const padded = new Float32Array(resizedH * resizedW);
    for (let i = 0; i < resizedH; i++) {
      const row = Math.min(h - 1, Math.max(0, i - top));
      for (let j = 0; j < resizedW; j++) {
        padded[i * resizedW + j] = map[row * w + Math.min(w - 1, Math.max(0, j - left))];
      }
    }
    return resize(padded, resizedH, resizedW, 1, height, width, "bilinear");
  }
}

/** 8-bit values as floats in [0, 1]. */
export function toFloats(bytes) {
  const table = Float32Array.from({ length: 256 }, (_, value) => value / 255);
  const out = new Float32Array(bytes.length);
  for (let i = 0; i < bytes.length; i++) out[i] = table[bytes[i]];
  return out;
}

/** Floats in [0, 1] as 8-bit values. */
export function toBytes(floats) {
  const out = new Uint8Array(floats.length);
  for (let i = 0; i < floats.length; i++) out[i] = roundHalfEven(f32(floats[i] * 255));
  return out;
}

/** Antialiased resize of (height, width, channels), rows first. */
export function resize(values, height, width, channels, outH, outW, kernel) {
  let out = values;
  if (height !== outH) out = alongRows(out, width * channels, taps(height, outH, kernel));
  if (width !== outW) out = alongColumns(out, outH, width, channels, taps(width, outW, kernel));
  return out;
}

// Every product and every sum is rounded to float32, as numpy does it.
function alongRows(values, stride, { count, index, weight, out: rows }) {
  const out = new Float32Array(rows * stride);
  for (let row = 0; row < rows; row++) {
    const to = row * stride;
    for (let tap = 0; tap < count; tap++) {
      const w = weight[row * count + tap];
      if (w === 0) continue;
      const from = index[row * count + tap] * stride;
      for (let k = 0; k < stride; k++) out[to + k] = f32(out[to + k] + f32(w * values[from + k]));
    }
  }
  return out;
}

function alongColumns(values, height, width, channels, { count, index, weight, out: columns }) {
  const out = new Float32Array(height * columns * channels);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < columns; column++) {
      const to = (row * columns + column) * channels;
      for (let tap = 0; tap < count; tap++) {
        const w = weight[column * count + tap];
        if (w === 0) continue;
        const from = (row * width + index[column * count + tap]) * channels;
        for (let c = 0; c < channels; c++) out[to + c] = f32(out[to + c] + f32(w * values[from + c]));
      }
    }
  }
  return out;
}

/** Source rows and their weights for each output row: the filter widens when shrinking. */
function taps(size, out, kernel) {
  const scale = size / out;
  const support = Math.max(scale, 1);
  const radius = (kernel === "bicubic" ? 2 : 1) * support;
  const curve = kernel === "bicubic" ? bicubic : (d) => Math.max(0, 1 - d);
  const first = new Int32Array(out);
  const last = new Int32Array(out);
  let count = 0;
  for (let i = 0; i < out; i++) {
    const centre = (i + 0.5) * scale;
    first[i] = Math.max(0, Math.floor(centre - radius + 0.5));
    last[i] = Math.min(size, Math.floor(centre + radius + 0.5));
    count = Math.max(count, last[i] - first[i]);
  }
  const index = new Int32Array(out * count);
  const weight = new Float32Array(out * count);
  for (let i = 0; i < out; i++) {
    const centre = (i + 0.5) * scale;
    const row = [];
    for (let at = first[i]; at < last[i]; at++) row.push(curve(Math.abs((at + 0.5 - centre) / support)));
    const sum = row.reduce((a, b) => a + b, 0);
    row.forEach((value, tap) => {
      index[i * count + tap] = first[i] + tap;
      weight[i * count + tap] = value / sum;
    });
  }
  return { count, index, weight, out };
}

function bicubic(d) {
  const a = -0.5;
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
}

/** To the nearest integer, halves to the even one. */
export function roundHalfEven(value) {
  const low = Math.floor(value);
  const rest = value - low;
  if (rest !== 0.5) return rest < 0.5 ? low : low + 1;
  return low % 2 === 0 ? low : low + 1;
}
