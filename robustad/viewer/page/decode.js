// Image files as pixels: our own decoders where a browser's would change values.
import { InputError } from "./errors.js";
import { decodePng, isPng } from "./png.js";
import { decodePnm, isPnm } from "./pnm.js";

/** Decode PNG, PPM and PGM anywhere; null for any other format. */
export async function decodeExactly(bytes, name) {
  if (isPng(bytes)) return decodePng(bytes, name);
  if (isPnm(bytes)) return decodePnm(bytes, name);
  return null;
}

/**
 * Decode an image file (File or Blob) in a browser; JPEG, WebP and BMP by its own decoders.
 * @returns {Promise<{height, width, pixels}>} RGB; see `decodePng`
 */
export async function decodeFile(file, name) {
  const found = await decodeExactly(new Uint8Array(await file.arrayBuffer()), name);
  if (found) return found;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      colorSpaceConversion: "none", // pixels as stored: a profile would move scores
      premultiplyAlpha: "none",
      imageOrientation: "from-image",
    });
  } catch {
    throw new InputError(
      `${name}: this browser cannot read it as an image; PNG, JPEG, WebP, BMP, PPM and PGM are ` +
        "taken (save TIFF as PNG)",
    );
  }
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const pixels = new Uint8Array(3 * width * height);
  for (let i = 0; i < width * height; i++) {
    if (data[4 * i + 3] !== 255) {
      throw new InputError(
        `${name}: has transparent pixels, whose colours a browser does not give; save it as PNG`,
      );
    }
    for (let c = 0; c < 3; c++) pixels[3 * i + c] = data[4 * i + c];
  }
  return { height, width, pixels };
}
