// Entry point: each module adds one feature. The pages work without script.
import { showTimes } from "./times.js";
import { followEvents } from "./live.js";
import { prepareForms } from "./actions.js";
import { moveByKeys } from "./keys.js";
import { chooseTiles } from "./raster.js";
import { switchPictures } from "./pictures.js";

showTimes(document);
setInterval(() => showTimes(document), 10_000);
prepareForms();
moveByKeys();
chooseTiles();
switchPictures();
if (document.querySelector("[data-live]")) followEvents();
