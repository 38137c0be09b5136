"""Sets for a table of S.U.N. rates: compositions to generate, and the crystals that are known.

    python benchmarks/make_sun_sets.py --data ../shared/data -o sun/
    crysgen sample --compositions sun/asked.npz -n 1 --method diffusion --no-energies \\
        -o sun/diffusion
    crysgen sample --compositions sun/asked.npz -n 1 --method retrieval --no-energies \\
        --exclude-file sun/exclude.txt -o sun/retrieval
    crysmetrics sun sun/diffusion sun/known.npz

Compositions are those of MP-20 test crystals drawn at random, which retrieval must not propose
(`exclude.txt` names the whole split); known are the other crystals of MP-20 and MPTS-52.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from bench_novelty import known_crystals

from crysmetrics.io import read, write


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--compositions", default=200, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(data: Path, output: Path, compositions: int, seed: int) -> None:
    """Write asked.npz, known.npz and exclude.txt."""
    output.mkdir(parents=True)
    test = read(data / "mp20" / "test.csv.gz")
    chosen = np.random.default_rng(seed).choice(len(test), compositions, replace=False)
    write(test[np.sort(chosen)], output / "asked.npz")
    write(known_crystals(data), output / "known.npz")
    (output / "exclude.txt").write_text("\n".join(test.ids) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
