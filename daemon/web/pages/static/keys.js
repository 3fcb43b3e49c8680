// Arrow keys within the grid of sections, so that it is one tab stop instead of hundreds.

/** @param {Element} grid @returns {HTMLElement[]} */
const linksOf = (grid) => [...grid.querySelectorAll("a")];

/**
 * The link that a key leads to.
 * @param {HTMLElement[]} links
 * @param {number} at
 * @param {string} key
 */
function target(links, at, key) {
  const row = (/** @type {number} */ step) => {
    const from = links[at].getBoundingClientRect();
    for (let next = at + step; next >= 0 && next < links.length; next += step) {
      const to = links[next].getBoundingClientRect();
      if (Math.abs(to.top - from.top) > 2 && Math.abs(to.left - from.left) < to.width) return next;
    }
    return at;
  };
  /** @type {Record<string, number | undefined>} */
  const moves = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: links.length - 1 };
  const next = key === "ArrowDown" ? row(1) : key === "ArrowUp" ? row(-1) : moves[key];
  return next === undefined ? undefined : links[Math.min(Math.max(next, 0), links.length - 1)];
}

/** @param {Element} grid @param {HTMLElement | undefined} current */
function setStop(grid, current) {
  for (const link of linksOf(grid)) link.tabIndex = link === current ? 0 : -1;
}

function setStops() {
  for (const grid of document.querySelectorAll("[data-keys=grid]")) {
    const links = linksOf(grid);
    setStop(grid, links.find((link) => link === document.activeElement) ?? links[0]);
  }
}

export function moveByKeys() {
  setStops();
  new MutationObserver(setStops).observe(document.body, { childList: true, subtree: true });
  document.addEventListener("keydown", (event) => {
    const link = event.target;
    if (!(link instanceof HTMLAnchorElement) || event.ctrlKey || event.altKey || event.metaKey) return;
    const grid = link.closest("[data-keys=grid]");
    if (!grid) return;
    const links = linksOf(grid);
    const next = target(links, links.indexOf(link), event.key);
    if (!next) return;
    event.preventDefault();
    setStop(grid, next);
    next.focus();
  });
}
