// Show times in the viewer's zone, and keep ages up to date.

const zone = new Intl.DateTimeFormat(undefined, { timeZoneName: "short" });

/**
 * The time since a moment, in one unit.
 * @param {number} seconds
 */
export function age(seconds) {
  const units = /** @type {const} */ ([[86_400, "d"], [3_600, "h"], [60, "min"]]);
  for (const [size, unit] of units) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return "now";
}

/**
 * Date and time of day in the viewer's zone, written alike everywhere: people of many countries read one page.
 * @param {Date} at
 */
function local(at) {
  const two = (/** @type {number} */ part) => String(part).padStart(2, "0");
  const day = [at.getFullYear(), at.getMonth() + 1, at.getDate()].map(two).join("-");
  return { day, clock: [at.getHours(), at.getMinutes(), at.getSeconds()].map(two).join(":") };
}

/**
 * Write every time below an element as the viewer reads it.
 * @param {ParentNode} root
 */
export function showTimes(root) {
  const now = new Date();
  for (const element of root.querySelectorAll("time[datetime]")) {
    const time = /** @type {HTMLTimeElement} */ (element);
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const { day, clock } = local(at);
    const old = age((now.getTime() - at.getTime()) / 1000);
    const short = clock.slice(0, 5);
    const name = zone.formatToParts(at).find((part) => part.type === "timeZoneName")?.value ?? "";
    /** @type {Record<string, string>} */
    const forms = {
      age: old === "now" ? old : `${old} ago`,
      since: `${day === local(now).day ? short : `${day} ${short}`} (${old})`,
    };
    const shown = forms[time.dataset.form ?? ""] ?? `${day} ${clock}`;
    if (time.textContent !== shown) time.textContent = shown;
    const title = `${day} ${clock} ${name}`;
    if (time.title !== title) time.title = title;
  }
}
