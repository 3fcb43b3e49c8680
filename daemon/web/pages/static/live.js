// Keep a page up to date: after an event, fetch the page again and replace the changed parts.
import { showTimes } from "./times.js";
import { updateButtons } from "./actions.js";
import { renewPicture } from "./pictures.js";

const PAUSE_MS = 2_000; // shortest time between two refreshes
const AGAIN_MS = 3_000; // after a lost connection
const RATES_MS = 60_000; // rates and disks change without events

let wanted = false;
let busy = false;
let refreshedAt = 0;
let lastEvent = "";
/** @type {EventSource | undefined} */
let source;

/** @param {string} text */
function say(text) {
  const place = document.getElementById("connection");
  if (place && place.textContent !== text) place.textContent = text;
}

/** Request a refresh; requests within a pause are merged. */
function wantRefresh() {
  wanted = true;
  if (busy || document.hidden) return;
  busy = true;
  setTimeout(refresh, Math.max(0, refreshedAt + PAUSE_MS - Date.now()));
}

async function refresh() {
  wanted = false;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(String(answer.status));
    replaceParts(new DOMParser().parseFromString(await answer.text(), "text/html"));
    if (source?.readyState === EventSource.OPEN) say("live");
  } catch {
    say("no answer, shown as of " + new Date(refreshedAt || performance.timeOrigin).toLocaleTimeString());
  } finally {
    busy = false;
    refreshedAt = Date.now();
  }
  if (wanted) wantRefresh();
}

/** Return a person's selections in a part, by the keys of its rows. @param {Element} part */
function choicesIn(part) {
  const boxes = [...part.querySelectorAll("input[type=checkbox]:checked")];
  return {
    checked: new Set(boxes.map((box) => /** @type {HTMLInputElement} */ (box).value)),
    open: new Set([...part.querySelectorAll("details[open]")].map((each) => each.textContent)),
    focus: part.contains(document.activeElement) ? pathOf(part, document.activeElement) : null,
    scrolled: [...part.querySelectorAll(".scroll"), part].map((each) => each.scrollLeft),
    said: part.querySelector("output")?.textContent ?? "",
  };
}

/**
 * Where an element is: by its address or value, so that it is found among other rows.
 * @param {Element} part
 * @param {Element | null} element
 */
function pathOf(part, element) {
  if (!element) return null;
  for (const name of ["href", "value", "name", "id"]) {
    const value = element.getAttribute(name);
    if (value) return `${element.localName}[${name}="${CSS.escape(value)}"]`;
  }
  return part === element ? "" : element.localName;
}

/** @param {Document} fresh */
export function replaceParts(fresh) {
  showTimes(fresh);
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (!other || other.innerHTML === part.innerHTML && other.className === part.className) continue;
    const kept = choicesIn(part);
    part.className = other.className;
    part.replaceChildren(...other.childNodes);
    restore(part, kept);
  }
  renewPicture(fresh);
  updateButtons();
}

/**
 * @param {Element} part
 * @param {ReturnType<typeof choicesIn>} kept
 */
function restore(part, kept) {
  for (const each of part.querySelectorAll("input[type=checkbox]")) {
    const box = /** @type {HTMLInputElement} */ (each);
    box.checked = kept.checked.has(box.value);
  }
  for (const each of part.querySelectorAll("details")) each.open = each.open || kept.open.has(each.textContent);
  [...part.querySelectorAll(".scroll"), part].forEach((each, at) => (each.scrollLeft = kept.scrolled[at] ?? 0));
  const output = part.querySelector("output");
  if (output && kept.said) output.textContent = kept.said;
  if (kept.focus === null) return;
  const target = kept.focus === "" ? part : part.querySelector(kept.focus);
  if (target instanceof HTMLElement) target.focus({ preventScroll: true });
}

/** Open the stream of events, and reopen it while the page is visible. */
export function followEvents() {
  const base = document.body.dataset.base ?? "";
  source = new EventSource(`${base}/api/events` + (lastEvent ? `?after=${lastEvent}` : ""));
  source.addEventListener("hello", () => {
    say("live");
    if (lastEvent || refreshedAt) wantRefresh();
  });
  for (const name of ["montage", "progress", "reload"]) {
    source.addEventListener(name, (event) => {
      lastEvent = event.lastEventId || lastEvent;
      wantRefresh();
    });
  }
  source.addEventListener("error", () => {
    say("not connected");
    refreshedAt ||= Date.now();
    if (source?.readyState === EventSource.CLOSED) setTimeout(followEvents, AGAIN_MS);
  });
}

document.addEventListener("visibilitychange", () => wantRefresh());
addEventListener("pagehide", () => source?.close());
addEventListener("pageshow", (event) => event.persisted && followEvents());
setInterval(wantRefresh, RATES_MS);
