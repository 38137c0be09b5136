"""Reading CIFs from a folder, a zip and a CSV, and many small blocks, against pymatgen.

python benchmarks/bench_reading.py --data ../shared/data
"""

from __future__ import annotations

import random
import tempfile
import time
import warnings
import zipfile
from itertools import cycle, islice
from pathlib import Path

import click
from common import once, table

from crysmetrics.io import read
from crysmetrics.parallel import cpu_count

FOLDERS = ("mp", "oqmd", "alexandria", "jarvis")


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--limit", default=100_000, show_default=True, help="Structures for crysmetrics.")
@click.option("--peer", default=400, show_default=True, help="Structures read by pymatgen.")
def main(data: Path, limit: int, peer: int) -> None:
    """Print one Markdown table."""
    warnings.simplefilter("ignore")
    cifs = all_cifs(data)
    random.Random(0).shuffle(cifs)
    cifs = list(islice(cycle(cifs), limit))  # all cores only start on sets larger than ours
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sources = store(cifs, Path(folder))
        for source in sources:
            # In turn, so that both see the same load on a shared machine.
            theirs = pymatgen_seconds(cifs[:peer])
            ours = once(lambda source=source: read(source, workers=1)) / len(cifs)
            every = once(lambda source=source: read(source)) / len(cifs)
            kind = "folder" if source.is_dir() else source.suffix.lstrip(".")
            rows.append((kind, 1 / theirs, 1 / ours, theirs / ours, 1 / every, theirs / every))
        atoms = len(read(sources[1]).atomic_numbers)
    cores = cpu_count()
    print(
        table(
            f"Reading {len(cifs):,} P1 CIFs of {atoms / len(cifs):.0f} atoms in the mean",
            (
                *("from", "pymatgen, structures/s", "one core, structures/s", "ratio"),
                *(f"{cores} cores, structures/s", "ratio"),
            ),
            rows,
        )
    )
    print(
        table(
            "Small cubic blocks, three sites of cell edge 5.64 Å, seconds a megabyte",
            ("symmetry given by", "pymatgen, s/MB", "one core, s/MB", "ratio"),
            [block_row(kind, line, len(cifs) // 50) for kind, line in CUBIC.items()],
        )
    )


CUBIC = {
    "the name F m -3 m": "_symmetry_space_group_name_H-M 'F m -3 m'",
    "the name F d -3 m, its origin open": "_symmetry_space_group_name_H-M 'F d -3 m'",
}


def block_row(kind: str, symmetry: str, count: int) -> tuple[str, float, float, float]:
    """Seconds a megabyte of one CIF of many blocks, ours, and of its first blocks by pymatgen."""
    from crysmetrics.io.cif import parse_cif

    cell = "".join(f"_cell_length_{x} 5.64\n" for x in "abc")
    cell += "".join(f"_cell_angle_{x} 90\n" for x in ("alpha", "beta", "gamma"))
    names = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
    sites = "loop_\n" + "".join(f"_atom_site_{x}\n" for x in names)
    sites += "Na1 Na 0 0 0\nCl1 Cl 0.5 0.5 0.5\nO1 O 0.1234 0.2345 0.3456\n"
    blocks = [f"data_{number}\n{symmetry}\n{cell}{sites}" for number in range(count)]
    text = "".join(blocks)
    parse_cif(blocks[0], "x.cif")
    ours = once(lambda: parse_cif(text, "x.cif")) / len(text)
    theirs = pymatgen_seconds(blocks[:10]) / len(blocks[0])
    return kind, theirs * 1e6, ours * 1e6, theirs / ours


def all_cifs(data: Path) -> list[str]:
    """The texts of all CIF folders and of the MP-20 and MPTS-52 tables."""
    import pandas as pd

    texts = []
    for name in FOLDERS:
        with zipfile.ZipFile(data / "cif_folders" / f"{name}.zip") as archive:
            texts += [archive.read(n).decode() for n in archive.namelist() if n.endswith(".cif")]
    for table_name in ("mp20/test", "mp20/val", "mpts52/test", "mpts52/val"):
        texts += pd.read_csv(data / f"{table_name}.csv.gz", usecols=["cif"])["cif"].tolist()
    return texts


def store(cifs: list[str], folder: Path) -> list[Path]:
    """The same CIFs as a folder, a zip and a CSV."""
    import pandas as pd

    paths = [folder / name for name in ("cifs", "cifs.zip", "cifs.csv")]
    paths[0].mkdir()
    with zipfile.ZipFile(paths[1], "w", zipfile.ZIP_DEFLATED) as archive:
        for number, text in enumerate(cifs):
            (paths[0] / f"{number}.cif").write_text(text)
            archive.writestr(f"{number}.cif", text)
    pd.DataFrame({"material_id": range(len(cifs)), "cif": cifs}).to_csv(paths[2], index=False)
    return paths


def pymatgen_seconds(cifs: list[str]) -> float:
    """Seconds a structure that pymatgen takes, the texts in memory already."""
    from pymatgen.core import Structure

    Structure.from_str(cifs[0], fmt="cif")
    start = time.perf_counter()
    for text in cifs:
        Structure.from_str(text, fmt="cif")
    return (time.perf_counter() - start) / len(cifs)


if __name__ == "__main__":
    main()
