"""CIF: what is read by `crysmetrics.io.cif`, and the texts that are written."""

from __future__ import annotations

import re

from crysmetrics.io.cif import parse_cif, parse_long_cif
from crysmetrics.io.crystals import Crystals
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.io.formats.base import Format
from crysmetrics.io.formats.handedness import right_handed
from crysmetrics.io.lattice import lattice_parameters


def p1_cif(crystal: Crystals) -> str:
    """Write the CIF text of one structure, all atoms listed; see `cif_text`."""
    return cif_text(crystal, 1)


def cif_text(crystal: Crystals, hall_number: int) -> str:
    """Write the CIF text of one structure, one atom of each orbit listed; 10 decimals keep 1e-9 Å.

    Args:
        crystal: the structure, its cell and origin as the setting has them.
        hall_number: 1 (P1) to 530. A structure without the symmetry of this setting is written
            in P1.
    """
    # It compiles; training on packed graphs reads and writes no crystals, and needs no Numba.
    from crysmetrics.space_group_settings import operation_triplets, setting_of
    from crysmetrics.symmetry import Cell, asymmetric_unit

    cell, frac_coords = right_handed(crystal)
    sites = asymmetric_unit(Cell(cell, frac_coords, crystal.atomic_numbers), hall_number)
    if sites is None:
        return cif_text(crystal, 1)
    setting = setting_of(hall_number)
    chosen, multiplicities = sites
    lengths, angles = lattice_parameters(cell)
    symbols = [SYMBOLS[z] for z in crystal.atomic_numbers]
    counts = {s: symbols.count(s) for s in dict.fromkeys(symbols)}
    formula = " ".join(f"{s}{n}" for s, n in counts.items())
    name = "P 1" if hall_number == 1 else setting.symbol
    operations = operation_triplets(hall_number)
    lines = [
        _data_line(crystal),
        f"_symmetry_space_group_name_H-M   '{name}'",
        f"_symmetry_Int_Tables_number   {setting.space_group}",
        f"_symmetry_space_group_name_Hall   '{setting.hall_symbol}'",
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
        *(f"  {k}  '{operation}'" for k, operation in enumerate(operations, 1)),
        "loop_",
        " _atom_site_type_symbol",
        " _atom_site_label",
        " _atom_site_symmetry_multiplicity",
        " _atom_site_fract_x",
        " _atom_site_fract_y",
        " _atom_site_fract_z",
        " _atom_site_occupancy",
    ]
    rows = zip(chosen, multiplicities, frac_coords[chosen].tolist(), strict=True)
    lines += [
        f"  {symbols[i]}  {symbols[i]}{k}  {multiplicity}  {x:.10f}  {y:.10f}  {z:.10f}  1"
        for k, (i, multiplicity, (x, y, z)) in enumerate(rows)
    ]
    return "\n".join(lines) + "\n"


def _data_line(crystal: Crystals) -> str:
    return f"data_{re.sub(r'[^A-Za-z0-9_.+-]', '_', crystal.ids[0])[:70] or 'structure'}"


def _sniff(head: bytes) -> bool:
    return any(line.strip().lower().startswith(b"data_") for line in head.split(b"\n"))


FORMAT = Format(
    name="cif",
    title="CIF",
    suffixes=(".cif", ".mcif"),
    parse=parse_cif,
    parse_long=parse_long_cif,
    sniff=_sniff,
    text=p1_cif,
    join=True,
    note="one block each",
)
