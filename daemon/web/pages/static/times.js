// Times in the viewer's zone, and ages that grow.

const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/**
 * The time since a moment, in one unit.
 * @param {number} seconds
 */
export function age(seconds) {
  if (seconds < 60) return "now";
  const units = /** @type {const} */ ([[86_400, "d"], [3_600, "h"], [60, "min"]]);
  for (const [size, unit] of units) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  }
  return "now";
}

/**
 * Write every time below an element as the viewer reads it.
 * @param {ParentNode} root
 */
export function showTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const time = /** @type {HTMLTimeElement} */ (element);
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const text = full.format(at);
    const shown = time.dataset.form === "age" ? age((Date.now() - at.getTime()) / 1000) : text;
    if (time.textContent !== shown) time.textContent = shown;
    if (time.title !== text) time.title = text;
  }
}
