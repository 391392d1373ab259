// Elements of the page.

/** A new element with this text and these properties. */
export function element(tag, text = "", properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text, ...properties });
}

/** Names and values, for a list of descriptions. */
export function listed(facts) {
  return Object.entries(facts).flatMap(([name, value]) => [
    element("dt", name),
    element("dd", value),
  ]);
}
