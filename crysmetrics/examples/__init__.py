"""Two small sets of crystals for the demo and for tests of an installed package.

`reference.zip` holds 120 structures of JARVIS-DFT (NIST, public domain; Choudhary et al., npj
Comput. Mater. 6, 173 (2020)). `generated.zip` stands for a model's output: 96 other JARVIS
structures, positions and cells perturbed by amounts that grow through the set, and five entries
such as generators and file systems leave behind. `benchmarks/make_examples.py` makes both.
"""

from importlib.resources import files
from pathlib import Path


def unpack(folder: Path) -> tuple[Path, Path]:
    """Write the folders `generated` and `reference` below `folder`, and return their paths."""
    import zipfile

    paths = []
    for name in ("generated", "reference"):
        archive = files(__name__).joinpath(f"{name}.zip")
        with archive.open("rb") as file, zipfile.ZipFile(file) as members:
            members.extractall(folder / name)
        paths.append(folder / name)
    return paths[0], paths[1]
