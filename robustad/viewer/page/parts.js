// The sliders of a policy's parts.
import { element } from "./html.js";
import { LARGEST_ENTROPY } from "./policy.js";

const hasCalibration = (file) => file.calibration !== null;
const hasNormal = (file) => Boolean(file.conformal);
const hasAnomalous = (file) => Boolean(file.conformal?.anomalous);
// What a part says, where its slider ends and begins, and whether a file has what it looks at.
const PARTS = {
  threshold: ["Reject from probability", 1, 0.5, hasCalibration],
  entropy_threshold: ["Defer above entropy (nats)", LARGEST_ENTROPY, 0.5, hasCalibration],
  p_value_threshold: ["Reject up to p-value", 1, 0.05, hasNormal],
  p_value_defer: ["Defer up to p-value", 1, 0.2, hasNormal],
  suspicion_threshold: ["Defer up to p-value of a score as low", 1, 0.01, hasNormal],
  anomaly_threshold: ["Accept only up to p-value as an anomaly", 1, 0.05, hasAnomalous],
};

/** Elements for all parts; `changed(key, value)` is called with numbers, null for one put off. */
export function partsOf(file, policy, changed) {
  return Object.keys(PARTS).map((key) => partOf(key, file, policy[key] ?? null, changed));
}

/** What to say of a policy beside the file's own, and whether they are the same. */
export function stateOf(policy, own) {
  const same = Object.keys(PARTS).every((key) => (policy[key] ?? null) === (own[key] ?? null));
  const { p_value_defer: defer = null, p_value_threshold: at = null } = policy;
  const idle = defer !== null && (at === null || defer <= at);
  const text =
    (same ? "The file's own policy." : "Changed here; the file stays as it is.") +
    (idle ? " Deferring by p-value needs a lower p-value to reject from." : "");
  return { text, same };
}

function partOf(key, file, value, changed) {
  const [text, most, first, isThere] = PARTS[key];
  const there = isThere(file);
  const set = value !== null;
  const needed = key === "threshold"; // a policy always has it
  const box = element("div", "", { className: there ? "part" : "part off" });
  const onOff = element("input", "", {
    type: "checkbox",
    id: `on-${key}`,
    checked: set,
    disabled: !there || needed,
  });
  const shown = element("output", set ? String(value) : "off");
  const slider = element("input", "", {
    type: "range",
    id: `at-${key}`,
    min: 0,
    max: most,
    step: 0.001,
    value: set ? value : first,
    disabled: !there || !set,
    ariaLabel: text,
  });
  const change = () => {
    slider.disabled = !onOff.checked;
    shown.textContent = onOff.checked ? slider.value : "off";
    changed(key, onOff.checked ? Number(slider.value) : null);
  };
  onOff.addEventListener("change", change);
  slider.addEventListener("input", change);
  const label = element("label");
  label.append(onOff, text, shown);
  box.append(label, slider);
  if (!there) box.append(element("span", "the file has not what this needs", { className: "hint" }));
  return box;
}
