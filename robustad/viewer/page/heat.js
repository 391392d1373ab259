// A heat map's colours, as of robustad/overlay.py: dark violet to pale yellow.
const RAMP = [
  [0.05, 0.03, 0.2],
  [0.34, 0.06, 0.43],
  [0.63, 0.15, 0.38],
  [0.88, 0.32, 0.21],
  [0.98, 0.6, 0.12],
  [0.98, 0.9, 0.55],
];

/** Colours of a map as RGBA bytes; more opaque the hotter, `strength` at the hottest. */
export function heat(map, low, high, strength) {
  const table = new Uint8ClampedArray(4 * 256);
  for (let level = 0; level < 256; level++) {
    const position = (level / 255) * (RAMP.length - 1);
    const at = Math.min(RAMP.length - 2, Math.floor(position));
    for (let c = 0; c < 3; c++) {
      table[4 * level + c] = 255 * (RAMP[at][c] + (RAMP[at + 1][c] - RAMP[at][c]) * (position - at));
    }
    table[4 * level + 3] = 255 * strength * Math.sqrt(level / 255);
  }
  const out = new Uint8ClampedArray(4 * map.length);
  const scale = 255 / Math.max(high - low, 1e-12);
  for (let i = 0; i < map.length; i++) {
    const level = Math.min(255, Math.max(0, Math.round((map[i] - low) * scale)));
    for (let c = 0; c < 4; c++) out[4 * i + c] = table[4 * level + c];
  }
  return out;
}
