// The page: files in, table and picture out. All computing is the worker's; moving a policy's
// sliders asks nobody, as verdicts are made here from the numbers at hand.
import { heat } from "./heat.js";
import { element, listed } from "./html.js";
import { partsOf, stateOf } from "./parts.js";
import { decide, VERDICTS } from "./policy.js";

const $ = (id) => document.getElementById(id);
let model = null; // the file's document, once one is open
let policy = {};
let items = []; // {file, name, state: "waiting" | "scored" | "failed", found, error, photo}
let shown = null;

// ---- the worker ------------------------------------------------------------------------------

const start = `import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`;
const worker = new Worker(URL.createObjectURL(new Blob([start], { type: "text/javascript" })), {
  type: "module",
});
const waiting = new Map();
let count = 0;
worker.onmessage = ({ data: { id, value, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error === undefined) resolve(value);
  else reject(new Error(error));
};
worker.onerror = (event) => tellModelError(`the worker did not start: ${event.message ?? "see the console"}`);

function ask(task, file, name) {
  return new Promise((resolve, reject) => {
    waiting.set(++count, { resolve, reject });
    worker.postMessage({ id: count, task, file, name });
  });
}

// ---- the detector ----------------------------------------------------------------------------

async function openModel(file, name) {
  tellModelError("");
  $("model-name").textContent = `Loading ${name} ...`;
  try {
    const { document: found, form, golden } = await ask("open", file, name);
    model = found;
    policy = { ...found.policy };
    $("model-name").textContent = name;
    showFacts(form, golden);
    showParts();
    $("policy").hidden = false;
    for (const item of items) item.state = "waiting";
    document.body.dataset.model = name;
    await scoreWaiting();
  } catch (error) {
    $("model-name").textContent = model ? document.body.dataset.model : "Choose another file";
    tellModelError(error.message);
  }
}

function tellModelError(text) {
  $("model-error").textContent = text;
  $("model-error").hidden = text === "";
}

function showFacts(form, golden) {
  const { size, square } = model.geometry;
  const fits = golden !== null && golden <= 1e-3;
  const check =
    golden === null ? "nothing stored" : `${fits ? "passed" : "FAILED"}, ${golden.toExponential(1)} apart`;
  const facts = {
    Method: model.method,
    Backbone: model.backbone?.name ?? "none",
    Images: `${square ? `stretched to ${size} x ${size}` : `smaller edge ${size}`} px${form === "uint8_nhwc" ? ", in the graph" : ""}`,
    Calibration: model.calibration?.method ?? "none: scores are no probabilities",
    "Held-out images": model.conformal ? `${model.conformal.normal.length} normal` : "none: no p-values",
    Written: `${model.created.slice(0, 10)}, robustad ${model.versions.robustad}`,
    "Golden image": check,
  };
  $("facts").replaceChildren(...listed(facts));
  document.body.dataset.golden = String(golden);
  if (golden !== null && !fits) {
    tellModelError("This browser does not reproduce the file's golden outputs: do not trust its results.");
  }
}

// ---- the policy ------------------------------------------------------------------------------

function showParts() {
  const changed = (key, value) => {
    policy[key] = value;
    tellPolicy();
    judge();
  };
  $("parts").replaceChildren(...partsOf(model, policy, changed));
  tellPolicy();
}

function tellPolicy() {
  const { text, same } = stateOf(policy, model.policy);
  $("policy-state").textContent = text;
  $("reset").disabled = same;
}

/** Verdicts of all images anew, from what is known of them. */
function judge() {
  const tally = Object.fromEntries(VERDICTS.map((verdict) => [verdict, 0]));
  for (const item of items) {
    const cell = item.row.cells[1].firstChild;
    if (item.state !== "scored") {
      cell.textContent = item.state;
      cell.className = item.state === "failed" ? "error" : "hint";
      delete item.row.dataset.verdict;
      continue;
    }
    const verdict = decide(policy, item.found);
    tally[verdict]++;
    item.row.dataset.verdict = verdict;
    cell.textContent = verdict;
    cell.className = `verdict ${verdict}`;
  }
  const said = VERDICTS.filter((verdict) => tally[verdict]).map((verdict) => `${tally[verdict]} ${verdict}`);
  $("counts").textContent = said.join(", ");
  if (shown) showNumbers();
}

// ---- the images ------------------------------------------------------------------------------

function addImages(files) {
  for (const file of files) {
    const item = { file, name: file.name, state: "waiting" };
    item.row = row(item);
    items.push(item);
    $("table").tBodies[0].append(item.row);
  }
  $("table").hidden = $("actions").hidden = !items.length;
  return scoreWaiting();
}

function row(item) {
  const line = element("tr");
  const name = element("td");
  name.append(element("button", item.name, { type: "button" }));
  const verdict = element("td");
  verdict.append(element("span"));
  line.append(name, verdict, element("td"), element("td"), element("td", "", { className: "p" }));
  line.addEventListener("click", () => show(item));
  return line;
}

let scoring = false;
async function scoreWaiting() {
  judge();
  if (scoring || !model) return;
  scoring = true;
  let next;
  while ((next = items.find(({ state }) => state === "waiting"))) {
    const done = items.filter(({ state }) => state !== "waiting").length;
    $("progress").textContent = `Scoring ${done + 1} of ${items.length} ...`;
    await score(next);
    judge();
    if (!shown && items.includes(next)) show(next);
    else if (shown) draw();
  }
  scoring = false;
  $("progress").textContent = "";
  document.body.dataset.scored = String(items.length);
}

async function score(item) {
  const by = model;
  try {
    const found = await ask("score", item.file, item.name);
    if (by !== model) return; // another detector came meanwhile: it stays waiting
    if (item.photo) URL.revokeObjectURL(item.photo);
    Object.assign(item, { found, photo: URL.createObjectURL(found.photo), state: "scored" });
    fill(item, [number(found.probability), number(found.score), number(found.pValue)]);
    for (const key of ["score", "probability", "entropy", "pValue", "graphVerdict"]) {
      item.row.dataset[key] = String(found[key]);
    }
  } catch (error) {
    if (by !== model) return;
    Object.assign(item, { error: error.message, found: null, state: "failed" });
    item.row.title = error.message;
    item.row.dataset.error = error.message;
    fill(item, ["", "", ""]);
  }
}

function fill(item, values) {
  values.forEach((value, i) => (item.row.cells[2 + i].textContent = value));
}

const number = (value) => (Number.isNaN(value) ? "-" : value.toPrecision(4));

// ---- the picture -----------------------------------------------------------------------------

function show(item) {
  shown = item;
  for (const one of items) one.row.classList.toggle("shown", one === item);
  $("picture").hidden = false;
  $("shown-name").textContent = item.name;
  $("stage").hidden = item.state !== "scored";
  if (item.state === "scored") {
    $("photo").alt = item.name;
    $("photo").src = item.photo;
  }
  showNumbers();
  draw();
}

function showNumbers() {
  const { found, state, error, row: line } = shown;
  const badge = $("shown-verdict");
  const verdict = line.dataset.verdict;
  badge.textContent = verdict ?? state;
  badge.className = verdict ? `verdict ${verdict}` : "hint";
  const numbers = found && {
    probability: number(found.probability),
    score: number(found.score),
    entropy: number(found.entropy),
    "p-value": number(found.pValue),
    size: `${found.width} x ${found.height}`,
    time: `${found.milliseconds.toFixed(0)} ms`,
  };
  $("shown-numbers").replaceChildren(...listed(numbers ?? { error: error ?? "" }));
}

/** The heat map over the picture. Colours compare between images if all share one scale. */
function draw() {
  if (!shown?.found) return;
  const { map, low, high } = shown.found;
  const all = items.filter(({ found }) => found).map(({ found }) => found);
  const common = $("common").checked;
  const from = common ? Math.min(...all.map((one) => one.low)) : low;
  const to = common ? Math.max(...all.map((one) => one.high)) : high;
  const canvas = $("heat");
  canvas.width = map.width;
  canvas.height = map.height;
  const colours = heat(map.values, from, to, 1);
  canvas.getContext("2d").putImageData(new ImageData(colours, map.width, map.height), 0, 0);
  place();
}

/** The canvas exactly over the picture, whatever size the page gives that. */
function place() {
  const { offsetLeft, offsetTop, offsetWidth, offsetHeight } = $("photo");
  const box = { left: offsetLeft, top: offsetTop, width: offsetWidth, height: offsetHeight };
  for (const [side, value] of Object.entries(box)) $("heat").style[side] = `${value}px`;
  $("heat").style.opacity = $("opacity").value;
}

function remove() {
  for (const { photo } of items) if (photo) URL.revokeObjectURL(photo);
  items = [];
  shown = null;
  $("table").tBodies[0].replaceChildren();
  for (const id of ["table", "actions", "picture"]) $(id).hidden = true;
  delete document.body.dataset.scored;
}

function table() {
  const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;
  const plain = (value) => (value === undefined || Number.isNaN(value) ? "" : String(value));
  const lines = items.map(({ name, found, error, row: line }) => [
    quoted(name),
    line.dataset.verdict ?? "",
    ...["probability", "score", "entropy", "pValue"].map((key) => plain(found?.[key])),
    quoted(error ?? ""),
  ]);
  const head = ["name", "verdict", "probability", "score", "entropy", "p_value", "error"];
  return [head, ...lines].map((line) => `${line.join(",")}\n`).join("");
}

// ---- what the person does --------------------------------------------------------------------

function droppable(zone, take) {
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take([...event.dataTransfer.files]);
  });
}

function taken(input, take) {
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = ""; // so that the same file can be chosen again
    take(files);
  });
}

const takeModel = ([file]) => file && openModel(file, file.name);
droppable($("model-drop"), takeModel);
taken($("model-file"), takeModel);
droppable($("image-drop"), addImages);
taken($("image-files"), addImages);
$("reset").addEventListener("click", () => {
  policy = { ...model.policy };
  showParts();
  judge();
});
$("opacity").addEventListener("input", place);
$("common").addEventListener("change", draw);
$("photo").addEventListener("load", place);
new ResizeObserver(place).observe($("stage"));
$("clear").addEventListener("click", remove);
$("save").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  element("a", "", { href: url, download: "verdicts.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
});

$("startup").hidden = true;
document.querySelector("main").hidden = false;
const settings = await (await fetch("viewer.json")).json();
if (settings.model) {
  const answer = await fetch(settings.model);
  if (answer.ok) await openModel(await answer.blob(), settings.model);
  else tellModelError(`${settings.model}: the server does not have it`);
}
