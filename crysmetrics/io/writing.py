"""`write`: Crystals to a CIF folder, a zip of CIFs, extended XYZ or `.npz`."""

from __future__ import annotations

import os
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError
from crysmetrics.io.atomic import atomic_file, atomic_folder, refuse_existing
from crysmetrics.io.crystals import Crystals, wrap
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.io.sources import JSON_SUFFIXES, SUFFIXES, TABLE_SUFFIXES, TAR_SUFFIXES, has_suffix
from crysmetrics.progress import task

_NOT_WRITTEN = (
    *(suffix for suffix in SUFFIXES if suffix not in (".cif", ".xyz", ".extxyz")),
    *(*TABLE_SUFFIXES, *JSON_SUFFIXES, *TAR_SUFFIXES),
    *(".gz", ".bz2", ".xz"),
)
"""Names of files that `read` takes but `write` can't make; a folder named so would mislead."""

DEFAULT_TOLERANCE = 0.01
"""Distance in Å within which symmetry is found when asked for (spglib's and moyo's `symprec`)."""


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
    one block each); anything else is a folder with one CIF for each id. Ids that no file could
    have as its name are changed to one (see `file_names`).

    Args:
        crystals: at least one structure.
        path: where to.
        symmetrize: CIFs in the space group found within `tolerance`, in its conventional cell,
            not P1.
        tolerance: in Å.
        overwrite: replace what exists. A folder is only replaced if it holds nothing but CIFs;
            a link stays, and what it points to is replaced.

    Raises:
        UserError: if there is nothing to write, or the path is taken.
    """
    path = Path(path)
    if not len(crystals):
        raise UserError(f"There are no structures to write to {path}.")
    suffix = path.suffix.lower()
    if symmetrize and suffix in (".npz", ".xyz", ".extxyz"):
        raise UserError(f"Symmetrised structures are written as CIF; {suffix} has no space groups.")
    if has_suffix(path, _NOT_WRITTEN):
        raise UserError(f"{path}: can write .npz, .zip, .cif, .xyz, .extxyz or a folder of CIFs.")
    refuse_existing(path, overwrite)
    if suffix == ".npz":
        crystals.save(path)
    elif suffix in (".xyz", ".extxyz"):
        _write_extxyz(crystals, path)
    else:
        kinds = {".cif": _write_cif, ".zip": _write_zip}
        settings = None
        if symmetrize:
            from crysmetrics.io.symmetrized import hall_numbers, symmetrized

            crystals = symmetrized(crystals, tolerance)
            settings = hall_numbers(crystals)
        kinds.get(suffix, _write_folder)(path, cif_texts(crystals, settings))


def cif_texts(
    crystals: Crystals, hall_numbers: Sequence[int] | None = None
) -> Iterator[tuple[str, str]]:
    """(file name, CIF text) of each structure.

    Args:
        crystals: B structures.
        hall_numbers: (B,) see `cif_text`; P1 without.
    """
    names = file_names(crystals.ids)
    settings = [1] * len(crystals) if hall_numbers is None else hall_numbers
    with task("Writing CIFs", len(crystals)) as advance:
        for name, structure, setting in zip(names, crystals, settings, strict=True):
            yield name, cif_text(structure, setting)
            advance(1)


def p1_cif(crystal: Crystals) -> str:
    """The CIF text of one structure, all atoms listed; see `cif_text`."""
    return cif_text(crystal, 1)


def cif_text(crystal: Crystals, hall_number: int) -> str:
    """The CIF text of one structure, one atom of each orbit listed; 10 decimals keep 1e-9 Å.

    Args:
        crystal: the structure, its cell and origin as the setting has them.
        hall_number: 1 (P1) to 530. A structure without the symmetry of this setting is written
            in P1.
    """
    # It compiles; training on packed graphs reads and writes no crystals, and needs no Numba.
    from crysmetrics.symmetry import Cell, asymmetric_unit, operation_triplets, setting_of

    cell, frac_coords = _right_handed(crystal)
    sites = asymmetric_unit(Cell(cell, frac_coords, crystal.atomic_numbers), hall_number)
    if sites is None:
        return cif_text(crystal, 1)
    setting = setting_of(hall_number)
    chosen, multiplicities = sites
    lengths = np.linalg.norm(cell, axis=1)
    pairs = ((1, 2), (0, 2), (0, 1))
    with np.errstate(all="ignore"):  # a cell without volume is written too, for a reader to name
        cosines = [cell[i] @ cell[j] / (lengths[i] * lengths[j]) for i, j in pairs]
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
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


def _right_handed(crystal: Crystals) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same crystal in a right-handed cell, the only kind that lengths and angles describe.

    All three vectors of a left-handed cell change their sign, and so do the positions: written
    as they are, they would come back as the mirror image.
    """
    cell, frac = crystal.lattices[0], crystal.frac_coords
    return (cell, frac) if np.linalg.det(cell) > 0 else (-cell, wrap(-frac))


_SAFE = frozenset(" ()+,;=@[]{}~^!#$&'-_.")
_PART_BYTES = 200
_PATH_BYTES = 800


def file_names(ids: tuple[str, ...]) -> list[str]:
    """Relative CIF paths for ids, distinct on every file system.

    A `/` makes folders. Letters and digits of all alphabets stay; what some file system can't
    hold in a name is percent-encoded, too long names are cut, and names that would clash (also
    by case alone) get a number.
    """
    names: list[str] = []
    taken: set[str] = set()
    last: Counter[str] = Counter()
    for structure_id in ids:
        parts = [_file_part(part) for part in structure_id.split("/")]
        # A folder x.cif would stand in the way of a file x.cif.
        parts[:-1] = [f"{p}_" if p.lower().endswith(".cif") else p for p in parts[:-1]]
        base = name = _cut("/".join(parts), _PATH_BYTES).rstrip("/")
        while _folded(name) in taken:
            last[base] += 1
            name = f"{base}~{last[base] + 1}"
        taken.add(_folded(name))
        names.append(name + ".cif")
    return names


def _folded(name: str) -> str:
    """What two names have in common that some file system takes for the same."""
    return unicodedata.normalize("NFKC", name).casefold()


def _file_part(part: str) -> str:
    encoded = "".join(c if c.isalnum() or c in _SAFE else _percent(c) for c in part)
    # Names that begin with a dot are hidden, those that end in one or a blank lose it on Windows.
    encoded = re.sub(r"^(?=\.|$)|(?<=[. ])$", "%", encoded)
    return _cut(encoded, _PART_BYTES)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _cut(text: str, limit: int) -> str:
    """The text, cut to so many bytes of UTF-8."""
    return text.encode()[:limit].decode("utf-8", "ignore")


def _write_folder(path: Path, texts: Iterator[tuple[str, str]]) -> None:
    if path.is_dir():
        others = [p for p in path.rglob("*") if not p.is_dir() and p.suffix.lower() != ".cif"]
        if others:
            raise UserError(f"{path} holds other files than CIFs ({others[0].name}); not replaced.")
    with atomic_folder(path) as temporary:
        for name, text in texts:
            file = temporary / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")


def _write_zip(path: Path, texts: Iterator[tuple[str, str]]) -> None:
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, text in texts:
            # A fixed date, so that equal structures make equal archives.
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            archive.writestr(info, text, compress_type=zipfile.ZIP_DEFLATED)


def _write_cif(path: Path, texts: Iterator[tuple[str, str]]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for _, text in texts:
            file.write(text + "\n")


def _write_extxyz(crystals: Crystals, path: Path) -> None:
    keys = _info_keys(list(crystals.properties))
    with (
        atomic_file(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
        task("Writing frames", len(crystals)) as advance,
    ):
        for structure in crystals:
            lattice = " ".join(map(repr, structure.lattices[0].ravel().tolist()))
            info = {keys[k]: values[0].item() for k, values in structure.properties.items()}
            comment = [
                f'Lattice="{lattice}"',
                "Properties=species:S:1:pos:R:3",
                f"{_ID_KEY}={_info_value(structure.ids[0])}",
                # Missing text reads as empty; ase stumbles over an empty pair of quotes.
                *(f"{key}={_info_value(v)}" for key, v in info.items() if v != ""),
                'pbc="T T T"',
            ]
            cart = structure.frac_coords @ structure.lattices[0]
            rows = [
                f"{SYMBOLS[z]} {x!r} {y!r} {z_!r}"
                for z, (x, y, z_) in zip(structure.atomic_numbers, cart.tolist(), strict=True)
            ]
            file.write("\n".join([str(len(rows)), " ".join(comment), *rows]) + "\n")
            advance(1)


_ID_KEY = "material_id"
_INFO_TAKEN = ("", "lattice", "properties", "pbc", _ID_KEY)


def _info_keys(names: list[str]) -> dict[str, str]:
    """Property names as keys of a frame's comment line, where only letters and digits may stand."""
    keys: dict[str, str] = {}
    for name in names:
        key = re.sub(r"\W", "_", name, flags=re.ASCII)
        while key.lower() in _INFO_TAKEN or key in keys.values():
            key += "_"
        keys[name] = key
    return keys


def _info_value(value: Any) -> str:
    if isinstance(value, bool):
        return "T" if value else "F"
    if not isinstance(value, str):
        return repr(value)
    for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r")):
        value = value.replace(character, escaped)
    return f'"{value}"'
