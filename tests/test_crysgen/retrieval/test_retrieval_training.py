"""The programs that make the library, and all that is learned from it, on tiny data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crysgen.retrieval.library import build
from crysgen.retrieval.library.entries import load_entries
from crysgen.retrieval.library.library import Library
from crysgen.retrieval.scoring.calibration import FEATURES, WEIGHTS
from crysgen.retrieval.scoring.plausibility import load_plausibility
from crysgen.retrieval.scoring.similarity import load_similarity
from crysgen.retrieval.scoring.volume import load_volume_networks, radial_histograms
from crysgen.retrieval.training import fit_calibration, train_plausibility, train_similarity
from crysgen.retrieval.training.leave_one_out import fold_of
from crysmetrics.errors import UserError
from crysmetrics.io import Crystals, write
from crysmetrics.io.formats.cif import p1_cif

PROTOTYPES = (225, 221)
"""Space groups of rock salt and caesium chloride."""
TRAINING, CALIBRATION = 8, 2
"""Crystals of each that networks learn from, and that weights are fitted to."""


def known_binaries() -> Crystals:
    """Binary crystals on the hull, with some of the folds that are held out."""
    entries = Library.load(extra=[]).entries
    chosen: dict[tuple[bool, int], list[int]] = {}
    for i in entries.by_counts[(1, 1)].tolist():
        if entries.source[i] == 0 and entries.e_above_hull[i] == 0:
            atoms = dict(zip(entries.species(i).tolist(), (1, 1), strict=True))
            held_out = fold_of(atoms) in fit_calibration.HELD_OUT
            chosen.setdefault((held_out, int(entries.space_groups[i])), []).append(i)
    rows = [i for number in PROTOTYPES for i in chosen[True, number][:CALIBRATION]]
    rows += [i for number in PROTOTYPES for i in chosen[False, number][:TRAINING]]
    return Crystals(
        np.concatenate([entries.species(i) for i in rows]),
        np.concatenate([entries.frac(i) for i in rows]),
        entries.lattices[rows].astype(float),
        np.full(len(rows), 2),
        [f"known-{i}" for i in rows],
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: most crystals in one table, and one in each other file."""
    folder = tmp_path_factory.mktemp("data")
    known = known_binaries()
    parts = {name: known[[k]] for k, name in enumerate(build.TABLES)}
    large = "mp20_val"
    place = list(build.TABLES).index(large)
    parts[large] = known[[place, *range(len(parts), len(known))]]
    rows = []
    for name, (file, _) in build.TABLES.items():
        path, part = folder / file, parts[name]
        path.parent.mkdir(exist_ok=True)
        if file.endswith(".zip"):
            write(part, path)
        else:
            table = pd.DataFrame({"material_id": part.ids, "cif": [p1_cif(c) for c in part]})
            table["formation_energy_per_atom"], table["e_above_hull"] = -1.0, 0.0
            table.to_csv(path, index=False)
        rows += [(i, name, "train", 2, f"{file}/{i}.cif") for i in part.ids]
    columns = ["id", "source", "split", "num_atoms", "cif_file"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "splits.csv.gz", index=False)
    return folder


@pytest.fixture(scope="module")
def library(data: Path) -> Path:
    path = data / "library.npz"
    build.main(["--data", str(data), "-o", str(path)])
    return path


def test_the_library_is_built(library: Path) -> None:
    entries = load_entries(library)
    assert len(entries) == len(PROTOTYPES) * (TRAINING + CALIBRATION)
    assert entries.sorted_entries == len(entries)
    assert set(entries.match_entry.tolist()) == set(range(len(entries)))
    assert 1 <= len(entries.representatives) < len(entries)
    # Zip archives say nothing of energies: these distances are estimated.
    unknown = np.isnan(entries.e_above_hull)
    assert unknown.sum() == sum(file.endswith(".zip") for file, _ in build.TABLES.values())
    assert np.isfinite(entries.hull_estimate[unknown]).all()


def test_similarity_and_volumes_are_trained(library: Path, tmp_path: Path) -> None:
    files = tmp_path / "similarity.npz", tmp_path / "volume.npz"
    few = ["--metrics", "2", "--epochs", "2", "--volume-epochs", "30"]
    few += ["--structure-volume-epochs", "30", "--volumes", str(files[1])]
    train_similarity.main([str(library), "-o", str(files[0]), *few])
    similarity, volumes = (load(path) for load, path in zip(LOADERS, files, strict=True))
    assert len(similarity.metrics) == len(volumes.networks) == 2
    entries = load_entries(library)
    group = Library(entries, similarity).group((1, 1))
    distances = group.distances(group.elements[0])
    assert distances[0, 0] == pytest.approx(0, abs=1e-3)
    assert (distances[1:] > 1e-3).any()
    # Volumes of crystals that were learned from come out roughly.
    histograms = np.array(
        [radial_histograms(group.entries.lattices[i], entries.frac(i), (1, 1)) for i in range(5)]
    )
    for predicted in (
        similarity.cell_volumes(group.elements[:5], (1, 1)),
        np.exp(volumes.log_volumes(group.elements[:5], (1, 1), histograms)),
    ):
        assert predicted == pytest.approx(group.volumes[:5], rel=0.6)


LOADERS = (load_similarity, load_volume_networks)


def test_plausibility_is_trained(library: Path, tmp_path: Path) -> None:
    path = tmp_path / "plausibility.safetensors"
    few = ("--networks", "2", "--epochs", "1", "--workers", "1")
    train_plausibility.main([str(library), "-o", str(path), *few])
    plausibility = load_plausibility(path)
    assert len(plausibility.networks) == 2
    salt = known_binaries()[0]
    cells = [(salt.atomic_numbers, salt.frac_coords, k * salt.lattices[0]) for k in (1.0, 1.2)]
    scores = plausibility.scores(cells)
    assert np.isfinite(scores).all()
    assert scores[0] != scores[1]
    none = ("--examples", "0")
    with pytest.raises(UserError, match="No example"):
        train_plausibility.main([str(library), "-o", str(tmp_path / "none"), *few, *none])
    assert not (tmp_path / "none").exists()


def test_calibration_is_fitted(library: Path, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    fit_calibration.main([str(library), "-o", str(path), "--workers", "1"])
    weights = json.loads(path.read_text())
    assert weights["formula"] != weights["cell"]
    for kind in ("cell", "formula"):
        assert tuple(weights[kind]) == FEATURES
        assert weights[kind] != WEIGHTS["cell"]
        assert np.isfinite(list(weights[kind].values())).all()
    with pytest.raises(UserError, match="No example"):
        fit_calibration.main(
            [str(library), "-o", str(tmp_path / "none"), "--workers", "1", "--examples", "0"]
        )
    assert not (tmp_path / "none").exists()
