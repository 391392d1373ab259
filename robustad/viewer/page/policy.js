// From evidence to verdict: robustad/verdict.py without certified intervals, and p-values as of
// robustad/conformal/. Numbers of JavaScript are float64, as there.

/** Names of the verdicts, by the code that the output `verdict` has for them. */
export const VERDICTS = ["accept", "reject", "defer", "uncalibrated"];
export const LARGEST_ENTROPY = Math.LN2;

/** What is known of an image from its score and its probability; NaN where nothing is. */
export function evidence(score, probability, conformal) {
  const normal = conformal?.normal?.map(Math.fround);
  const anomalous = conformal?.anomalous?.map(Math.fround);
  return {
    probability,
    pValue: rankShare(normal, (one) => one >= score, score),
    lowPValue: rankShare(normal, (one) => one <= score, score),
    anomalyPValue: rankShare(anomalous, (one) => one <= score, score),
  };
}

/** Verdict by a policy, as in the document's `policy`; a part that is null or missing is not set. */
export function decide(policy, { probability, pValue, lowPValue, anomalyPValue }) {
  const entropyAt = set(policy.entropy_threshold);
  const pValueAt = set(policy.p_value_threshold);
  const deferAt = set(policy.p_value_defer);
  const anomalyAt = set(policy.anomaly_threshold);
  const suspicionAt = set(policy.suspicion_threshold);
  const rules = [
    [known(probability), probability >= policy.threshold],
    [known(pValueAt) && known(pValue), pValue <= pValueAt],
    [known(anomalyAt) && known(anomalyPValue), anomalyPValue > anomalyAt],
  ].filter(([inForce]) => inForce);
  const lacking = [
    [entropyAt, probability],
    [pValueAt, pValue],
    [anomalyAt, anomalyPValue],
    [suspicionAt, lowPValue],
  ].some(([at, value]) => known(at) && !known(value));
  if (lacking || !rules.length) return "uncalibrated";
  const reject = rules.some(([, says]) => says);
  const accept = rules.some(([, says]) => !says);
  // A comparison with NaN is false: parts that are not set ask for nothing.
  const defer =
    (reject && accept) ||
    binaryEntropy(probability) > entropyAt ||
    lowPValue <= suspicionAt ||
    (pValue > pValueAt && pValue <= deferAt);
  if (defer) return "defer";
  return reject ? "reject" : "accept";
}

/** Predictive entropy in nats, 0 to ln 2. */
export function binaryEntropy(p) {
  if (p === 0 || p === 1) return 0;
  return -p * Math.log(p) - (1 - p) * Math.log1p(-p);
}

function rankShare(heldOut, reaches, score) {
  if (!heldOut || Number.isNaN(score)) return NaN;
  return (1 + heldOut.filter(reaches).length) / (heldOut.length + 1);
}

const known = (value) => !Number.isNaN(value);
const set = (value) => (value === null || value === undefined ? NaN : value);
