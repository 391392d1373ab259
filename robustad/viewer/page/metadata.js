// The JSON document that robustad stores in an ONNX file. onnxruntime's JavaScript bindings do not
// show a file's metadata, so the outermost fields of the protobuf message are read here.
// docs/artefact.schema.json describes the document; robustad/runtime/_metadata.py is the same in
// Python.
import { InputError } from "./errors.js";

const KEY = "robustad";
const SCHEMA_VERSION = 3;
const FORMS = { "float32 NCHW": "float_nchw", "uint8 NHWC": "uint8_nhwc" };
// A part of a policy that is not known here might change verdicts.
const POLICY = [
  "threshold",
  "entropy_threshold",
  "p_value_threshold",
  "p_value_defer",
  "anomaly_threshold",
  "suspicion_threshold",
];

// Fields of ModelProto and StringStringEntryProto (onnx.proto, stable since its first release).
const OPSET_IMPORT = 8;
const METADATA_PROPS = 14;
const NAME = 1;
const VALUE = 2;
const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const FIXED32 = 5;
const OLDEST_OPSET = 18;

/** Read the document out of an ONNX file's bytes (Uint8Array) and check what is relied on. */
export function readMetadata(bytes, name) {
  let properties;
  let opset;
  try {
    ({ properties, opset } = outermost(bytes));
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new InputError(
      `${name}: not an ONNX file that can be run: truncated, or another format (${error.message})`,
    );
  }
  if (opset === undefined) {
    throw new InputError(`${name}: not an ONNX file that can be run: it names no operator set`);
  }
  const text = properties.get(KEY);
  if (text === undefined) {
    throw new InputError(`${name}: an ONNX file, but not one exported by robustad (no metadata)`);
  }
  if (opset < OLDEST_OPSET) {
    throw new InputError(
      `${name}: written in ONNX operator set ${opset}, expected ${OLDEST_OPSET} or newer: not a ` +
        "file of robustad's, or a tool has converted it",
    );
  }
  let document;
  try {
    document = JSON.parse(text);
  } catch (error) {
    throw new InputError(`${name}: its robustad metadata is no JSON: ${error.message}`);
  }
  check(document, name);
  return document;
}

/** Which of the two forms the file's input takes: prepared images, or images of any size. */
export function inputForm(document) {
  const { dtype = "float32", layout = "NCHW" } = document.input;
  return FORMS[`${dtype} ${layout}`];
}

function check(document, name) {
  const version = isObject(document) ? document.schema_version : undefined;
  if (!Number.isInteger(version) || version < 1) {
    throw new InputError(`${name}: its robustad metadata has no schema_version`);
  }
  if (version > SCHEMA_VERSION) {
    throw new InputError(
      `${name}: written by a newer robustad (metadata version ${version}, this one reads up to ` +
        `${SCHEMA_VERSION}); take the JavaScript of that robustad (a viewer is written anew)`,
    );
  }
  const { input, geometry, policy, patch_size, conformal, custom_ops = [] } = document;
  const expect = (fits, field, value) => {
    if (fits) return;
    const lacks = value === undefined;
    throw new InputError(
      `${name}: its robustad metadata ${lacks ? "lacks" : "is damaged:"} ${field}` +
        (lacks ? "" : ` is ${JSON.stringify(value)}`),
    );
  };
  expect(isObject(input), "input", input);
  expect(inputForm(document) !== undefined, "input.dtype and input.layout", input);
  for (const edge of ["height", "width"]) {
    expect(input[edge] === null || isCount(input[edge]), `input.${edge}`, input[edge]);
  }
  expect(isObject(geometry), "geometry", geometry);
  for (const field of ["size", "multiple"]) {
    expect(isCount(geometry[field]), `geometry.${field}`, geometry[field]);
  }
  expect(geometry.size >= geometry.multiple, "geometry.size", geometry.size);
  expect(typeof geometry.square === "boolean", "geometry.square", geometry.square);
  expect(isCount(patch_size), "patch_size", patch_size);
  expect(isObject(policy), "policy", policy);
  expect(typeof policy.threshold === "number", "policy.threshold", policy.threshold);
  for (const [field, value] of Object.entries(policy)) {
    const fits = POLICY.includes(field) && (value === null || Number.isFinite(value));
    expect(fits, `policy.${field}`, value);
  }
  if (conformal !== null && conformal !== undefined) {
    expect(isNumbers(conformal.normal), "conformal.normal", conformal.normal);
    const { anomalous } = conformal;
    expect(anomalous === null || isNumbers(anomalous), "conformal.anomalous", anomalous);
  }
  if (custom_ops.length) {
    throw new InputError(
      `${name}: uses operators of robustad's own (${custom_ops.join(", ")}), which need a library ` +
        "that JavaScript has not; export it without custom_ops",
    );
  }
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isCount = (value) => Number.isInteger(value) && value >= 1;
const isNumbers = (value) =>
  Array.isArray(value) && value.length > 0 && value.every((one) => Number.isFinite(one));

/** Metadata and the version of the standard operators; the graph is skipped, whatever its size. */
function outermost(bytes) {
  const properties = new Map();
  let opset;
  const reader = new Reader(bytes);
  while (!reader.done) {
    const { field, wire, value } = reader.field();
    if (wire !== BYTES) continue;
    if (field === METADATA_PROPS) {
      const entry = new Map(fieldsOf(value));
      const text = new TextDecoder();
      properties.set(text.decode(entry.get(NAME)), text.decode(entry.get(VALUE)));
    } else if (field === OPSET_IMPORT) {
      const entry = new Map(fieldsOf(value));
      if (!entry.get(NAME)?.length) opset = entry.get(VALUE) ?? 0;
    }
  }
  return { properties, opset };
}

function fieldsOf(bytes) {
  const reader = new Reader(bytes);
  const found = [];
  while (!reader.done) {
    const { field, value } = reader.field();
    found.push([field, value]);
  }
  return found;
}

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  get done() {
    return this.at >= this.bytes.length;
  }

  field() {
    const tag = this.varint();
    const field = Math.floor(tag / 8);
    const wire = tag % 8;
    if (wire === VARINT) return { field, wire, value: this.varint() };
    if (wire === BYTES) return { field, wire, value: this.take(this.varint()) };
    if (wire === FIXED64 || wire === FIXED32) {
      return { field, wire, value: this.take(wire === FIXED64 ? 8 : 4) };
    }
    throw new RangeError(`no field of a model at byte ${this.at}`);
  }

  take(length) {
    const end = this.at + length;
    if (end > this.bytes.length) {
      throw new RangeError(`${end} bytes expected, ${this.bytes.length} there`);
    }
    const found = this.bytes.subarray(this.at, end);
    this.at = end;
    return found;
  }

  /** Lengths are far below 2 ** 53, where numbers are exact; larger values are not needed. */
  varint() {
    let value = 0;
    for (let i = 0; i < 10; i++) {
      if (this.done) throw new RangeError("it ends within a number");
      const byte = this.bytes[this.at++];
      value += (byte & 0x7f) * 2 ** (7 * i);
      if (!(byte & 0x80)) return value;
    }
    throw new RangeError("a number of more than 64 bits");
  }
}
