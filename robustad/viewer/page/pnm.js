// Binary PPM and PGM files: a header in text, then the pixels. Cameras' software writes them.
import { InputError } from "./errors.js";

const P = 0x50;
const SPACES = [0x20, 0x09, 0x0a, 0x0d];
const COMMENT = 0x23;
const LINE = 0x0a;

export const isPnm = (bytes) => bytes[0] === P && (bytes[1] === 0x35 || bytes[1] === 0x36);

/** Decode a PPM (P6) of 8 bits or a PGM (P5) of 8 or 16 bits: {height, width, pixels}, RGB. */
export function decodePnm(bytes, name) {
  const channels = bytes[1] === 0x36 ? 3 : 1;
  let at = 2;
  const numbers = [];
  while (numbers.length < 3) {
    while (SPACES.includes(bytes[at])) at++;
    if (bytes[at] === COMMENT) {
      while (at < bytes.length && bytes[at] !== LINE) at++;
      continue;
    }
    const start = at;
    while (bytes[at] >= 0x30 && bytes[at] <= 0x39) at++;
    if (at === start) throw new InputError(`${name}: cannot be read as an image: no header`);
    numbers.push(Number(String.fromCharCode(...bytes.subarray(start, at))));
  }
  at++; // one space after the largest value
  const [width, height, most] = numbers;
  const deep = channels === 1 && most === 65535;
  if (most !== 255 && !deep) {
    throw new InputError(
      `${name}: expected values up to 255, or 65535 of a grey image, got up to ${most}`,
    );
  }
  const count = width * height;
  const size = count * channels * (deep ? 2 : 1);
  if (!count || at + size > bytes.length) {
    throw new InputError(
      `${name}: cannot be read as an image: truncated, ${size} bytes of pixels expected`,
    );
  }
  const pixels = deep ? new Float32Array(3 * count) : new Uint8Array(3 * count);
  for (let i = 0; i < 3 * count; i++) {
    const place = channels === 3 ? i : Math.floor(i / 3);
    const from = at + (deep ? 2 : 1) * place;
    pixels[i] = deep ? (bytes[from] * 256 + bytes[from + 1]) / 65535 : bytes[from];
  }
  return { height, width, pixels };
}
