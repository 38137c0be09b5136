"use strict";
const darkTheme = window.matchMedia("(prefers-color-scheme: dark)");

function onThemeChange(action) {
  darkTheme.addEventListener("change", action);
}

// A viewer of cells ({xyz, lattice}) in an element; null where the browser can't draw in 3D.
function crystalViewer(element) {
  let viewer = null;
  try {
    viewer = $3Dmol.createViewer(element, {
      backgroundAlpha: 0, antialias: true, disableFog: true,
    });
  } catch (error) {
    viewer = null;
  }
  if (!viewer) {
    element.textContent = "This browser can't draw in three dimensions (WebGL is off).";
    return null;
  }

  // The cell's twelve edges: from each corner along each vector that it does not yet hold.
  function drawCell(lattice) {
    const colour = darkTheme.matches ? "#aab4c0" : "#66707c";
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

  window.addEventListener("resize", () => viewer.resize());
  return {
    show(cell) {
      viewer.removeAllModels();
      viewer.removeAllShapes();
      if (cell) {
        viewer.addModel(cell.xyz, "xyz");
        viewer.setStyle({}, {
          sphere: { scale: 0.3, colorscheme: "Jmol" },
          stick: { radius: 0.1, colorscheme: "Jmol" },
        });
        drawCell(cell.lattice);
        viewer.resize();
        viewer.zoomTo();
        // It fits the height alone.
        viewer.zoom(Math.min(1, element.clientWidth / element.clientHeight));
        viewer.rotate(25, "y");
        viewer.rotate(-15, "x");
      }
      viewer.render();
    },
    spin(on) {
      viewer.spin(on ? "y" : false, 0.6);
    },
  };
}
