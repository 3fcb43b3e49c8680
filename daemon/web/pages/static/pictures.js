// The picture of a section: refresh the mosaic while tiles are made; show heatmaps without reloading the page.
import { showTimes } from "./times.js";

/** @returns {{box: HTMLElement, image: HTMLImageElement} | null} */
function parts() {
  const box = document.querySelector("[data-picture]");
  const image = box?.querySelector("img");
  return box instanceof HTMLElement && image ? { box, image } : null;
}

/**
 * Load a picture, and show it once it is there: the former one stays until then.
 * @param {string} address
 * @param {string} text
 */
function show(address, text) {
  const found = parts();
  if (!found || found.image.src === address) return;
  const next = new Image();
  found.box.dataset.wanted = address;
  found.box.classList.add("loading");
  const done = () => {
    if (found.box.dataset.wanted === address) found.box.classList.remove("loading");
  };
  next.addEventListener("error", done);
  next.addEventListener("load", () => {
    if (found.box.dataset.wanted !== address) return;
    found.image.src = address;
    found.image.alt = text;
    const whole = found.image.closest("a");
    if (whole) whole.href = address;
    const age = found.box.querySelector("[data-age] time");
    if (age instanceof HTMLTimeElement) age.dateTime = new Date().toISOString();
    showTimes(found.box);
    done();
  });
  next.src = address;
}

/** Take over the addresses of a fresh page; reload the shown picture if its address has changed. @param {Document} fresh */
export function renewPicture(fresh) {
  const found = parts();
  const other = fresh.querySelector("[data-picture]");
  if (!found || !other) return;
  const shown = found.box.querySelector("[data-show][aria-current]")?.getAttribute("data-show") ?? "mosaic";
  const links = found.box.querySelector(".links");
  const fresher = other.querySelector(".links");
  if (!links || !fresher) return;
  for (const link of fresher.querySelectorAll("[data-show]")) {
    if (link.getAttribute("data-show") === shown) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  if (links.innerHTML !== fresher.innerHTML && !links.contains(document.activeElement)) {
    links.replaceChildren(...fresher.childNodes);
  }
  const current = found.box.querySelector("a[aria-current]");
  if (current instanceof HTMLAnchorElement) show(current.href, found.image.alt);
}

/** Switch between the mosaic and the heatmaps; show a text if a picture cannot be drawn. */
export function switchPictures() {
  const found = parts();
  const judge = () => found?.box.classList.toggle("missing", found.image.complete && !found.image.naturalWidth);
  for (const name of ["load", "error"]) found?.image.addEventListener(name, judge);
  judge();
  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest("a[data-show]") : null;
    if (!(link instanceof HTMLAnchorElement) || !(event instanceof MouseEvent) || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    for (const each of link.parentElement?.querySelectorAll("[data-show]") ?? []) each.removeAttribute("aria-current");
    link.setAttribute("aria-current", "true");
    show(link.href, link.dataset.show === "mosaic" ? "The section, from its mipmaps" : `Heatmap: ${link.textContent}`);
  });
}
