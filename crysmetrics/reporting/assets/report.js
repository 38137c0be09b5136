(function () {
  "use strict";
  const structures = JSON.parse(document.getElementById("structure-data").textContent);
  const sides = ["gen", "ref"];
  const viewers = {};
  let spinning = false;

  function draw(side, item) {
    const caption = document.getElementById("caption-" + side);
    caption.replaceChildren();
    if (item) {
      const title = document.createElement("strong");
      title.textContent = (item.formula ? item.formula + " – " : "") + item.title;
      const facts = document.createElement("p");
      facts.textContent = item.facts.join("; ");
      caption.append(title, facts);
      if (!item.cell) facts.append("; too many atoms to be drawn");
    } else {
      caption.textContent = "There is none to compare with.";
    }
    viewers[side].show(item && item.cell);
  }

  function choose(button) {
    for (const other of document.querySelectorAll("[data-structure]")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    const of = structures.filter((s) => s.kind === button.dataset.kind);
    const item = of[Number(button.dataset.structure)];
    draw("gen", item);
    draw("ref", item.near);
    document.getElementById("heading-ref").textContent =
      (item.near && item.near.heading) || "Nearest reference";
  }

  for (const side of sides) {
    viewers[side] = crystalViewer(document.getElementById("viewer-" + side));
    if (!viewers[side]) return;
  }
  const buttons = document.querySelectorAll("[data-structure]");
  for (const button of buttons) {
    button.addEventListener("click", () => choose(button));
  }
  const turn = document.getElementById("turn");
  turn.addEventListener("click", () => {
    spinning = !spinning;
    turn.setAttribute("aria-pressed", String(spinning));
    for (const side of sides) viewers[side].spin(spinning);
  });
  onThemeChange(() => {
    const pressed = document.querySelector("[data-structure][aria-pressed=true]");
    if (pressed) choose(pressed);
  });
  if (buttons.length) choose(buttons[0]);
  document.documentElement.dataset.viewer = "ready";
})();
