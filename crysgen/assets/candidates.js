(function () {
  "use strict";
  const cells = JSON.parse(document.getElementById("cells").textContent);
  const dialog = document.getElementById("turning");
  const turn = document.getElementById("turn");
  let viewer = null;
  let current = null;

  // The viewer is made when it is first needed, since a hidden one has no size.
  function show(button) {
    current = cells[Number(button.dataset.cell)];
    document.getElementById("turning-title").textContent = button.dataset.title;
    dialog.showModal();
    viewer = viewer || crystalViewer(document.getElementById("viewer"));
    if (viewer) viewer.show(current);
  }

  for (const button of document.querySelectorAll("[data-cell]")) {
    button.addEventListener("click", () => show(button));
  }
  turn.addEventListener("click", () => {
    const spinning = turn.getAttribute("aria-pressed") !== "true";
    turn.setAttribute("aria-pressed", String(spinning));
    if (viewer) viewer.spin(spinning);
  });
  onThemeChange(() => { if (viewer && current) viewer.show(current); });
  document.documentElement.dataset.viewer = "ready";
})();
