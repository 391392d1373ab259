// PNG files as robustad reads them. Browsers scale 16-bit greys to 8 bits, apply colour profiles
// and lose the colours of transparent pixels; node has no decoder at all.
import { InputError } from "./errors.js";
import { exifOrientation, turned } from "./orientation.js";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const GREY = 0;
const RGB = 2;
const PALETTE = 3;
const GREY_ALPHA = 4;
const RGBA = 6;
const CHANNELS = { [GREY]: 1, [RGB]: 3, [PALETTE]: 1, [GREY_ALPHA]: 2, [RGBA]: 4 };
const DEPTHS = {
  [GREY]: [1, 2, 4, 8, 16],
  [RGB]: [8, 16],
  [PALETTE]: [1, 2, 4, 8],
  [GREY_ALPHA]: [8, 16],
  [RGBA]: [8, 16],
};
// Column, row and their steps of the seven passes of an interlaced image.
const ADAM7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
];
const MAX_PIXELS = 1 << 27;

export const isPng = (bytes) => SIGNATURE.every((value, i) => bytes[i] === value);

/**
 * Decode a PNG file (Uint8Array).
 * @returns {Promise<{height, width, pixels}>} RGB; bytes, and floats in [0, 1] of 16-bit greys. An
 *   alpha channel is dropped, 16-bit colours keep their upper 8 bits, EXIF rotation is applied.
 */
export async function decodePng(bytes, name) {
  const file = chunks(bytes, name);
  const { width, height, channels, depth, interlaced } = file.header;
  const data = await inflate(file.data, name);
  const bits = channels * depth;
  const passes = interlaced ? ADAM7 : [[0, 0, 1, 1]];
  const samples = depth === 16 ? new Uint16Array(width * height * channels) : new Uint8Array(width * height * channels);
  let at = 0;
  for (const [x, y, stepX, stepY] of passes) {
    const columns = Math.ceil((width - x) / stepX);
    const rows = Math.ceil((height - y) / stepY);
    if (columns <= 0 || rows <= 0) continue;
    const stride = Math.ceil((columns * bits) / 8);
    const end = at + rows * (stride + 1);
    if (end > data.length) throw damaged(name, "its pixels end too early");
    const lines = unfilter(data.subarray(at, end), rows, stride, Math.max(1, bits >> 3), name);
    at = end;
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) {
        const to = ((y + i * stepY) * width + x + j * stepX) * channels;
        for (let c = 0; c < channels; c++) {
          samples[to + c] = sample(lines, i * stride, j * channels + c, depth);
        }
      }
    }
  }
  return turned({ height, width, pixels: toRgb(samples, file) }, file.orientation);
}

function chunks(bytes, name) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const file = { data: [], orientation: 1 };
  let at = SIGNATURE.length;
  let ended = false;
  while (!ended) {
    if (at + 12 > bytes.length) throw damaged(name, "truncated");
    const length = view.getUint32(at);
    const end = at + 8 + length;
    if (end + 4 > bytes.length) throw damaged(name, "truncated");
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const body = bytes.subarray(at + 8, end);
    if (crc32(bytes.subarray(at + 4, end)) !== view.getUint32(end)) {
      throw damaged(name, `a wrong checksum in ${type}`);
    }
    if (type === "IHDR") file.header = header(body, name);
    if (type === "PLTE") file.palette = body;
    if (type === "IDAT") file.data.push(body);
    if (type === "eXIf") file.orientation = exifOrientation(body);
    ended = type === "IEND";
    at = end + 4;
  }
  if (!file.header) throw damaged(name, "no header");
  if (file.header.type === PALETTE && !file.palette) throw damaged(name, "no palette");
  return file;
}

function header(body, name) {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  if (body.length !== 13) throw damaged(name, "no header");
  const [width, height] = [view.getUint32(0), view.getUint32(4)];
  const [depth, type, , , interlaced] = body.subarray(8);
  if (!DEPTHS[type]?.includes(depth) || !width || !height) throw damaged(name, "no header");
  if (width * height > MAX_PIXELS) {
    throw new InputError(`${name}: refused, too many pixels (${width} x ${height})`);
  }
  return { width, height, depth, type, interlaced, channels: CHANNELS[type] };
}

async function inflate(parts, name) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  try {
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw damaged(name, "its pixels cannot be unpacked");
  }
}

/** Undo the filter of each line; lines without their leading byte. */
function unfilter(data, rows, stride, step, name) {
  const out = new Uint8Array(rows * stride);
  for (let i = 0; i < rows; i++) {
    const filter = data[i * (stride + 1)];
    if (filter > 4) throw damaged(name, `a line of unknown filter ${filter}`);
    const from = i * (stride + 1) + 1;
    const to = i * stride;
    for (let j = 0; j < stride; j++) {
      const left = j >= step ? out[to + j - step] : 0;
      const up = i ? out[to - stride + j] : 0;
      let guess = 0;
      if (filter === 1) guess = left;
      else if (filter === 2) guess = up;
      else if (filter === 3) guess = (left + up) >> 1;
      else if (filter === 4) guess = paeth(left, up, i && j >= step ? out[to - stride + j - step] : 0);
      out[to + j] = data[from + j] + guess;
    }
  }
  return out;
}

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}

function sample(lines, start, place, depth) {
  if (depth === 8) return lines[start + place];
  if (depth === 16) return lines[start + 2 * place] * 256 + lines[start + 2 * place + 1];
  const bit = place * depth;
  return (lines[start + (bit >> 3)] >> (8 - depth - (bit & 7))) & ((1 << depth) - 1);
}

function toRgb(samples, { header: { type, depth, channels }, palette }) {
  const count = samples.length / channels;
  const deepGrey = type === GREY && depth === 16;
  const out = deepGrey ? new Float32Array(3 * count) : new Uint8Array(3 * count);
  const grey = type === GREY || type === GREY_ALPHA;
  const scale = grey && depth < 8 ? 255 / ((1 << depth) - 1) : 1;
  const shift = depth === 16 ? 8 : 0;
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < 3; c++) {
      const value = samples[i * channels + (grey || type === PALETTE ? 0 : c)];
      if (deepGrey) out[3 * i + c] = value / 65535;
      else if (type === PALETTE) out[3 * i + c] = palette[3 * value + c] ?? 0;
      else out[3 * i + c] = (value >> shift) * scale;
    }
  }
  return out;
}

const CRC = Int32Array.from({ length: 256 }, (_, value) => {
  let crc = value;
  for (let i = 0; i < 8; i++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

function crc32(bytes) {
  let crc = -1;
  for (let i = 0; i < bytes.length; i++) crc = (crc >>> 8) ^ CRC[(crc ^ bytes[i]) & 0xff];
  return ~crc >>> 0;
}

const damaged = (name, reason) => new InputError(`${name}: cannot be read as an image: ${reason}`);
