// Rules for the script of the pages.
import js from "@eslint/js";

const names = ["document", "window", "location", "fetch", "confirm", "setTimeout", "setInterval", "addEventListener",
  "performance", "CSS", "Image", "EventSource", "DOMParser", "DOMPoint", "FormData", "MutationObserver", "Element",
  "HTMLElement", "HTMLAnchorElement", "HTMLButtonElement", "HTMLFormElement", "HTMLInputElement", "HTMLTimeElement",
  "SVGSVGElement", "MouseEvent"];

export default [
  js.configs.recommended,
  {
    languageOptions: {
      ecmaVersion: 2023,
      sourceType: "module",
      globals: Object.fromEntries(names.map((name) => [name, "readonly"])),
    },
    rules: { eqeqeq: "error", "prefer-const": "error", "no-var": "error" },
  },
];
