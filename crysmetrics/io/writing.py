"""`write`: Crystals to a CIF folder, a zip of CIFs, extended XYZ or `.npz`."""

from __future__ import annotations

import io
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import numpy as np

from crysmetrics.errors import UserError
from crysmetrics.io.atomic import atomic_file, atomic_folder, refuse_existing
from crysmetrics.io.crystals import Crystals
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.progress import task

DEFAULT_TOLERANCE = 0.01
"""Distance in Å within which symmetry is found when asked for (spglib's `symprec`)."""


def write(
    crystals: Crystals,
    path: str | os.PathLike[str],
    *,
    symmetrize: bool = False,
    tolerance: float = DEFAULT_TOLERANCE,
    overwrite: bool = False,
) -> None:
    """Write all structures, whole or not at all.

    The name says the format: `.npz` (loss-free, failures included), `.zip` (of CIFs), `.xyz` or
    `.extxyz` (one frame each, ids and properties in the comment line), `.cif` (one structure
    one block each); anything else is a folder with one CIF for each id.

    Args:
        crystals: at least one structure.
        path: where to.
        symmetrize: CIFs in the space group found within `tolerance`, not P1.
        tolerance: in Å.
        overwrite: replace what exists. A folder is only replaced if it holds nothing but CIFs.

    Raises:
        UserError: if there is nothing to write, or the path is taken.
    """
    path = Path(path)
    if not len(crystals):
        raise UserError(f"There are no structures to write to {path}.")
    refuse_existing(path, overwrite)
    suffix = path.suffix.lower()
    if symmetrize and suffix in (".npz", ".xyz", ".extxyz"):
        raise UserError(f"Symmetrised structures are written as CIF; {suffix} has no space groups.")
    if suffix == ".npz":
        crystals.save(path)
    elif suffix in (".xyz", ".extxyz"):
        _write_extxyz(crystals, path)
    elif suffix == ".zip":
        _write_zip(crystals, path, symmetrize, tolerance)
    elif suffix == ".cif":
        with atomic_file(path) as temporary:
            texts = [text for _, text in cif_texts(crystals, symmetrize, tolerance)]
            temporary.write_text("\n".join(texts), encoding="utf-8")
    elif suffix in (".csv", ".json", ".gz", ".tar", ".vasp"):
        raise UserError(f"{path}: can write .npz, .zip, .cif, .xyz, .extxyz or a folder of CIFs.")
    else:
        _write_folder(crystals, path, symmetrize, tolerance)


def cif_texts(
    crystals: Crystals, symmetrize: bool = False, tolerance: float = DEFAULT_TOLERANCE
) -> Iterator[tuple[str, str]]:
    """(file name, CIF text) of each structure."""
    names = _file_names(crystals.ids)
    with task("Writing CIFs", len(crystals)) as advance:
        for name, structure in zip(names, crystals, strict=True):
            yield name, _symmetrized_cif(structure, tolerance) if symmetrize else p1_cif(structure)
            advance(1)


def p1_cif(crystal: Crystals) -> str:
    """The CIF text of one structure, all atoms listed; 10 decimals keep 1e-9 Å."""
    cell = crystal.lattices[0]
    lengths = np.linalg.norm(cell, axis=1)
    cosines = [cell[i] @ cell[j] / (lengths[i] * lengths[j]) for i, j in ((1, 2), (0, 2), (0, 1))]
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    symbols = [SYMBOLS[z] for z in crystal.atomic_numbers]
    counts = {s: symbols.count(s) for s in dict.fromkeys(symbols)}
    formula = " ".join(f"{s}{n}" for s, n in counts.items())
    lines = [
        f"data_{re.sub(r'[^A-Za-z0-9_.+-]', '_', crystal.ids[0])}",
        "_symmetry_space_group_name_H-M   'P 1'",
        "_symmetry_Int_Tables_number   1",
        *(f"_cell_length_{k}   {v:.10f}" for k, v in zip("abc", lengths, strict=True)),
        *(
            f"_cell_angle_{k}   {v:.10f}"
            for k, v in zip(("alpha", "beta", "gamma"), angles, strict=True)
        ),
        f"_cell_volume   {crystal.volumes[0]:.8f}",
        f"_chemical_formula_sum   '{formula}'",
        "loop_",
        " _symmetry_equiv_pos_site_id",
        " _symmetry_equiv_pos_as_xyz",
        "  1  'x, y, z'",
        "loop_",
        " _atom_site_type_symbol",
        " _atom_site_label",
        " _atom_site_symmetry_multiplicity",
        " _atom_site_fract_x",
        " _atom_site_fract_y",
        " _atom_site_fract_z",
        " _atom_site_occupancy",
    ]
    lines += [
        f"  {symbol}  {symbol}{k}  1  {x:.10f}  {y:.10f}  {z:.10f}  1"
        for k, (symbol, (x, y, z)) in enumerate(zip(symbols, crystal.frac_coords, strict=True))
    ]
    return "\n".join(lines) + "\n"


def _symmetrized_cif(crystal: Crystals, tolerance: float) -> str:
    """CIF in the space group that spglib finds; P1 where it finds none."""
    from pymatgen.io.cif import CifWriter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            structure = crystal.to_pymatgen()[0]
            return str(CifWriter(structure, symprec=tolerance, significant_figures=10))
        except (TypeError, ValueError, AttributeError):
            # spglib gives up on atoms closer than the tolerance; the crystal is still written.
            return p1_cif(crystal)


def _file_names(ids: tuple[str, ...]) -> list[str]:
    """Relative CIF paths: the ids, with what a file name can't hold percent-encoded."""
    names, taken = [], set()
    for structure_id in ids:
        parts = [quote(part, safe=" ()+,;=@[]{}~^!#$&'")[:200] for part in structure_id.split("/")]
        parts = [f"%{part}" if part in ("", ".", "..") or part[0] == "." else part for part in parts]
        base = name = "/".join(parts)
        number = 1
        while name.casefold() in taken:  # some file systems do not tell Ab from ab
            number += 1
            name = f"{base}~{number}"
        taken.add(name.casefold())
        names.append(name + ".cif")
    return names


def _write_folder(crystals: Crystals, path: Path, symmetrize: bool, tolerance: float) -> None:
    if path.is_dir():
        others = [p for p in path.rglob("*") if p.is_file() and p.suffix.lower() != ".cif"]
        if others:
            raise UserError(f"{path} holds other files than CIFs ({others[0].name}); not replaced.")
    with atomic_folder(path) as temporary:
        for name, text in cif_texts(crystals, symmetrize, tolerance):
            file = temporary / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")


def _write_zip(crystals: Crystals, path: Path, symmetrize: bool, tolerance: float) -> None:
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, text in cif_texts(crystals, symmetrize, tolerance):
            # A fixed date, so that equal structures make equal archives.
            info = zipfile.ZipInfo(str(PurePosixPath(name)), date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            archive.writestr(info, text, compress_type=zipfile.ZIP_DEFLATED)


def _write_extxyz(crystals: Crystals, path: Path) -> None:
    from ase import Atoms
    from ase.io import write as ase_write

    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        with task("Writing frames", len(crystals)) as advance:
            for i, structure in enumerate(crystals):
                atoms = Atoms(
                    numbers=structure.atomic_numbers,
                    scaled_positions=structure.frac_coords,
                    cell=structure.lattices[0],
                    pbc=True,
                )
                atoms.info = {"id": structure.ids[0]}
                for name, values in crystals.properties.items():
                    atoms.info[re.sub(r"\W", "_", name)] = values[i].item()
                frame = io.StringIO()
                ase_write(frame, atoms, format="extxyz")
                file.write(frame.getvalue())
                advance(1)
