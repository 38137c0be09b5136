"use strict";
(function () {
  const structures = JSON.parse(document.getElementById("structure-data").textContent);
  const sides = ["gen", "ref"];
  const viewers = {};
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let spinning = false;

  function fail(text) {
    for (const side of sides) {
      document.getElementById("viewer-" + side).textContent = text;
    }
  }

  // The cell's twelve edges: from each corner along each vector that it does not yet hold.
  function drawCell(viewer, lattice) {
    const colour = dark.matches ? "#aab4c0" : "#66707c";
    const at = (corner) => {
      const sum = [0, 1, 2].map((k) =>
        corner.reduce((total, c, row) => total + c * lattice[row][k], 0));
      return { x: sum[0], y: sum[1], z: sum[2] };
    };
    for (let bits = 0; bits < 8; bits++) {
      const corner = [bits & 1, (bits >> 1) & 1, (bits >> 2) & 1];
      for (let k = 0; k < 3; k++) {
        if (corner[k]) continue;
        const end = corner.slice();
        end[k] = 1;
        viewer.addCylinder({
          start: at(corner), end: at(end), radius: 0.04, color: colour, fromCap: 1, toCap: 1,
        });
      }
    }
  }

  function draw(side, item) {
    const caption = document.getElementById("caption-" + side);
    caption.replaceChildren();
    const viewer = viewers[side];
    viewer.removeAllModels();
    viewer.removeAllShapes();
    if (item) {
      const title = document.createElement("strong");
      title.textContent = (item.formula ? item.formula + " – " : "") + item.title;
      const facts = document.createElement("p");
      facts.textContent = item.facts.join("; ");
      caption.append(title, facts);
      if (item.cell) {
        viewer.addModel(item.cell.xyz, "xyz");
        viewer.setStyle({}, {
          sphere: { scale: 0.3, colorscheme: "Jmol" },
          stick: { radius: 0.1, colorscheme: "Jmol" },
        });
        drawCell(viewer, item.cell.lattice);
        viewer.zoomTo();
        viewer.rotate(25, "y");
        viewer.rotate(-15, "x");
      } else {
        facts.append("; too many atoms to be drawn");
      }
    } else {
      caption.textContent = "There is none to compare with.";
    }
    viewer.render();
  }

  function choose(button) {
    for (const other of document.querySelectorAll("[data-structure]")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    const of = structures.filter((s) => s.kind === button.dataset.kind);
    const item = of[Number(button.dataset.structure)];
    draw("gen", item);
    draw("ref", item.near);
  }

  try {
    for (const side of sides) {
      viewers[side] = $3Dmol.createViewer(document.getElementById("viewer-" + side), {
        backgroundAlpha: 0, antialias: true, disableFog: true,
      });
      if (!viewers[side]) throw new Error("no WebGL");
    }
  } catch (error) {
    fail("This browser can't draw in three dimensions (WebGL is off).");
    return;
  }
  const buttons = document.querySelectorAll("[data-structure]");
  for (const button of buttons) {
    button.addEventListener("click", () => choose(button));
  }
  const turn = document.getElementById("turn");
  turn.addEventListener("click", () => {
    spinning = !spinning;
    turn.setAttribute("aria-pressed", String(spinning));
    for (const side of sides) viewers[side].spin(spinning ? "y" : false, 0.6);
  });
  dark.addEventListener("change", () => {
    const pressed = document.querySelector("[data-structure][aria-pressed=true]");
    if (pressed) choose(pressed);
  });
  window.addEventListener("resize", () => {
    for (const side of sides) viewers[side].resize();
  });
  if (buttons.length) choose(buttons[0]);
  document.documentElement.dataset.viewer = "ready";
})();
