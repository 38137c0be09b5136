"""Make the references that ship with the package, from the real data.

    python benchmarks/make_references.py --data ../shared/data

`mp20-test-bt`: the binary and ternary compounds of the published MP-20 test split (Materials
Project, CC BY 4.0).
"""

from __future__ import annotations

from pathlib import Path

import click

from crysmetrics import references
from crysmetrics.features.sample import Sample
from crysmetrics.io import read

SOURCE = (
    "Binary and ternary compounds of the MP-20 test split (Xie et al. 2021); Materials Project, "
    "CC BY 4.0, Jain et al., APL Mater. 1, 011002 (2013)."
)


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
def main(data: Path) -> None:
    """Write crysmetrics/references/mp20-test-bt.npz."""
    sample = Sample(read(data / "mp20" / "test.csv.gz"), "ref")
    path = references.build(
        "mp20-test-bt",
        sample,
        ["crystalnn", "alignn", "cdvae_mp20", "space_group"],
        source=SOURCE,
        folder=Path(references.__file__).parent,
        overwrite=True,
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
