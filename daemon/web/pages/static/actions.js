// Requests that write: JSON by fetch, which no form of another site can send. The page does not reload.

/** @returns {NodeListOf<HTMLFormElement>} */
function forms() {
  return document.querySelectorAll("form[data-post]");
}

/** @param {HTMLFormElement} form */
function chosen(form) {
  const boxes = form.querySelectorAll("input[name=id]:checked");
  return [...boxes].map((box) => Number(/** @type {HTMLInputElement} */ (box).value));
}

/** Show how many rows are selected. */
export function updateButtons() {
  for (const form of forms()) {
    const count = chosen(form).length;
    const button = form.querySelector("button[data-selected]");
    if (button instanceof HTMLButtonElement) {
      button.disabled = count === 0;
      button.textContent = count ? `Retry ${count} selected` : "Retry selected";
    }
    const all = form.querySelector("input[data-all]");
    if (all instanceof HTMLInputElement) {
      const shown = form.querySelectorAll("input[name=id]").length;
      all.checked = count > 0 && count === shown;
      all.indeterminate = count > 0 && count < shown;
    }
  }
}

/**
 * Send JSON to the daemon.
 * @param {string} address
 * @param {unknown} body
 * @returns {Promise<string>} the outcome as text
 */
export async function send(address, body) {
  try {
    const answer = await fetch(address, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: JSON.stringify(body),
    });
    const result = await answer.json();
    return answer.ok ? (result.summary ?? "Done.") : (result.error ?? `Refused: ${answer.status}`);
  } catch {
    return "The daemon does not answer. Nothing is known to have changed.";
  }
}

/** @param {SubmitEvent} event */
async function submit(event) {
  const form = event.target;
  if (!(form instanceof HTMLFormElement) || !form.dataset.post) return;
  event.preventDefault();
  const button = event.submitter;
  const fields = Object.fromEntries(new FormData(form, button));
  const isRetry = form.dataset.total !== undefined;
  const all = isRetry && fields.what === "all";
  if (all && form.dataset.total !== "1" && !confirm(`Retry all ${form.dataset.total} failed sections?`)) return;
  const body = !isRetry ? fields : all ? { all: true } : { ids: chosen(form) };
  if (button instanceof HTMLButtonElement) button.disabled = true;
  const output = form.querySelector("output");
  if (output) output.textContent = "…";
  const outcome = await send(form.dataset.post, body);
  const shown = output?.isConnected ? output : document.querySelector(`form[data-post="${form.dataset.post}"] output`);
  if (shown) shown.textContent = outcome;
  else document.getElementById("connection")?.replaceChildren(outcome);
  for (const box of form.querySelectorAll("input[type=checkbox]")) /** @type {HTMLInputElement} */ (box).checked = false;
  if (button instanceof HTMLButtonElement) button.disabled = false;
  updateButtons();
}

/** Handle forms and boxes of the page, including those that are added later. */
export function prepareForms() {
  document.addEventListener("submit", (event) => void submit(event));
  document.addEventListener("change", (event) => {
    const box = event.target;
    if (!(box instanceof HTMLInputElement) || box.type !== "checkbox") return;
    if (box.dataset.all !== undefined) {
      for (const each of box.form?.querySelectorAll("input[name=id]") ?? []) {
        /** @type {HTMLInputElement} */ (each).checked = box.checked;
      }
    }
    updateButtons();
  });
  updateButtons();
}
