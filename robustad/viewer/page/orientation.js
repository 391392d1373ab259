// How a camera was held, as EXIF tells it.
const ORIENTATION = 0x0112;
const SHORT = 3;
// By EXIF's number: whether rows and columns are interchanged first, then whether columns and rows
// are reversed.
const TURNS = {
  2: [false, true, false],
  3: [false, true, true],
  4: [false, false, true],
  5: [true, false, false],
  6: [true, true, false],
  7: [true, true, true],
  8: [true, false, true],
};

/** EXIF's number for the orientation, 1 to 8; 1 if there is none. `bytes` begin with II or MM. */
export function exifOrientation(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    const little = view.getUint16(0) === 0x4949;
    const folder = view.getUint32(4, little);
    const entries = view.getUint16(folder, little);
    for (let i = 0; i < entries; i++) {
      const at = folder + 2 + 12 * i;
      if (view.getUint16(at, little) === ORIENTATION && view.getUint16(at + 2, little) === SHORT) {
        const value = view.getUint16(at + 8, little);
        return value in TURNS ? value : 1;
      }
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // damaged: as if there were none
  }
  return 1;
}

/** The image upright. */
export function turned(image, orientation) {
  const turn = TURNS[orientation];
  if (!turn) return image;
  const [swapped, reverseColumns, reverseRows] = turn;
  const height = swapped ? image.width : image.height;
  const width = swapped ? image.height : image.width;
  const pixels = new image.pixels.constructor(image.pixels.length);
  for (let i = 0; i < height; i++) {
    for (let j = 0; j < width; j++) {
      const row = reverseRows ? height - 1 - i : i;
      const column = reverseColumns ? width - 1 - j : j;
      const from = 3 * (swapped ? column * image.width + row : row * image.width + column);
      const to = 3 * (i * width + j);
      for (let c = 0; c < 3; c++) pixels[to + c] = image.pixels[from + c];
    }
  }
  return { height, width, pixels };
}
