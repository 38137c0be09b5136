"""Make crysmetrics/examples/*.zip from the JARVIS folder of CIFs and the list of splits."""

from __future__ import annotations

import zipfile
from pathlib import Path

import click
import numpy as np
import pandas as pd

from crysmetrics.io import Crystals, read, write
from crysmetrics.io.formats.cif import p1_cif

BROKEN = {
    "empty.cif": "",
    "error_page.cif": "<!DOCTYPE html><html><body>404 Not Found</body></html>\n",
}


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "output", type=click.Path(path_type=Path), default="crysmetrics/examples")
def main(data: Path, output: Path) -> None:
    """DATA is the folder with splits.csv.gz and cif_folders/jarvis.zip."""
    splits = pd.read_csv(data / "splits.csv.gz", low_memory=False)
    rows = splits[
        (splits.source == "jarvis") & (splits.split == "train") & (splits.num_atoms <= 12)
    ]
    crystals = read(data / "cif_folders" / "jarvis.zip")
    known = {structure_id: i for i, structure_id in enumerate(crystals.ids)}
    candidates = [known[Path(f).stem] for f in rows.cif_file if Path(f).stem in known]
    rng = np.random.default_rng(0)
    chosen = rng.permutation(sorted(candidates))[: 120 + 96]
    write(crystals[np.sort(chosen[:120])], output / "reference.zip", overwrite=True)
    generated = perturb(crystals[np.sort(chosen[120:])], rng)
    write(generated, output / "generated.zip", overwrite=True)
    with zipfile.ZipFile(output / "generated.zip", "a", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {**BROKEN, **spoiled(generated)}.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)


def perturb(crystals: Crystals, rng: np.random.Generator) -> Crystals:
    """Noise of 0 to 0.2 Å in positions and 0 to 8 % in cells, growing through the set."""
    strength = np.linspace(0, 1, len(crystals))
    strain = 0.08 * strength[:, None, None] * rng.normal(size=(len(crystals), 3, 3))
    lattices = crystals.lattices @ (np.eye(3) + (strain + strain.transpose(0, 2, 1)) / 2)
    noise = (
        0.2
        * strength[crystals.structure_index, None]
        * rng.normal(size=(len(crystals.frac_coords), 3))
    )
    frac = crystals.frac_coords + np.einsum(
        "ni,nij->nj", noise, np.linalg.inv(lattices)[crystals.structure_index]
    )
    ids = [f"generated-{k:03d}" for k in range(len(crystals))]
    return Crystals(crystals.atomic_numbers, frac, lattices, crystals.num_atoms, ids)


def spoiled(crystals: Crystals) -> dict[str, str]:
    """A truncated file, an unknown element, and two atoms on top of each other."""
    text = p1_cif(crystals[0])
    crowded = crystals[len(crystals) // 2]
    frac = crowded.frac_coords.copy()
    frac[1] = frac[0] + 0.01
    overlap = Crystals(
        crowded.atomic_numbers, frac, crowded.lattices, crowded.num_atoms, ["atoms_overlap"]
    )
    return {
        "truncated.cif": text[: text.index("_atom_site_fract_z")],
        "unknown_element.cif": text.replace("\n  " + text.split("\n  ")[-1][:2], "\n  Qq", 1),
        "atoms_overlap.cif": p1_cif(overlap),
    }


if __name__ == "__main__":
    main()
