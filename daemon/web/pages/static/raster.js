// A click in the raster of a section opens the page of that tile. The form below does the same by keyboard.

export function chooseTiles() {
  document.addEventListener("click", (event) => {
    const raster = event.target instanceof Element ? event.target.closest("svg.raster") : null;
    if (!(raster instanceof SVGSVGElement) || !(event instanceof MouseEvent)) return;
    const matrix = raster.getScreenCTM();
    if (!matrix) return;
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
    const column = Math.floor(at.x) + Number(raster.dataset.left);
    const row = Math.floor(at.y) + Number(raster.dataset.top);
    location.assign(`${raster.dataset.at}?column=${column}&row=${row}`);
  });
}
