"""Our own `.npz`, and how reading runs: in processes, threads, scripts."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
from sets import random_crystals
from strategies import assert_same

from crysmetrics.io import Failure, parsing, read, write


def test_npz(tmp_path):
    batch = random_crystals(3).with_failures([Failure("a.cif", "is empty")])
    write(batch, tmp_path / "x.NPZ")
    back = read(tmp_path / "x.NPZ")
    assert back.sha256() == batch.sha256()
    assert back.failures == batch.failures


def test_all_cores_read_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(parsing, "_CHUNK", 4)
    batch = random_crystals(40)
    write(batch, tmp_path / "set")
    (tmp_path / "set/broken.cif").write_text("data_x")
    alone = read(tmp_path / "set", workers=1)
    monkeypatch.setattr(parsing, "_PATIENCE", 0)
    together = read(tmp_path / "set", workers=2)
    assert together.ids == alone.ids
    assert together.failures == alone.failures
    np.testing.assert_array_equal(together.frac_coords, alone.frac_coords)
    np.testing.assert_array_equal(together.lattices, alone.lattices)
    assert together.sha256() == alone.sha256()


SCRIPT = """
import sys
from crysmetrics.io import parsing, read
parsing._CHUNK, parsing._PATIENCE = 4, 0
print(len(read(sys.argv[1], workers=2)))
"""


def test_script_without_a_main_guard(tmp_path):
    write(random_crystals(20), tmp_path / "set.zip")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "set.zip")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("20\n", 0), done.stderr


def test_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(parsing, "_CHUNK", 4)
    monkeypatch.setattr(parsing, "_PATIENCE", 0)
    write(random_crystals(12), tmp_path / "set.zip")
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(len(read(tmp_path / "set.zip", workers=2))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [12, 12]


def test_other_people_s_files_equal_ours(tmp_path):
    from ase.io import write as ase_write
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.io.vasp import Poscar

    batch = random_crystals(5)
    write(batch, tmp_path / "ours")
    for name, structure in zip(batch.ids, batch.to_pymatgen(), strict=True):
        text = Poscar(structure).get_str(significant_figures=12)
        (tmp_path / f"{name}.vasp").write_text(text)
        ase_write(tmp_path / f"{name}.xyz", AseAtomsAdaptor.get_atoms(structure), format="extxyz")
    ours = read(tmp_path / "ours")
    for k, name in enumerate(batch.ids):
        assert_same(read(tmp_path / f"{name}.xyz"), ours[k], 1e-5)
        assert read(tmp_path / f"{name}.vasp").element_counts.tolist() == (
            ours[k].element_counts.tolist()
        )
