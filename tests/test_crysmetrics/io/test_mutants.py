"""Reading of damaged files: a failure or a sentence for each, in bounded time."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from mutants import Mutant, mutants

from crysmetrics.errors import UserError
from crysmetrics.io import Crystals, read

FEW, MANY = 2000, 100_000
SECONDS, SECONDS_PER_MB = 2.0, 2.0
"""Processor time for a file: a second a megabyte, doubled for machines that do other work."""


def outcome(path) -> Crystals | str:
    """What is read of a file, or the sentence that says why nothing is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # overflow would reach the terminal
            return read(path, workers=1)
    except UserError as error:
        return str(error)


def assert_sound(mutant: Mutant, found: Crystals | str) -> None:
    if isinstance(found, str):
        assert "\n" not in found
        assert "Traceback" not in found
        assert len(found) < 2000
        return
    assert len(found) > 0
    assert np.isfinite(found.frac_coords).all()
    assert np.isfinite(found.lattices).all()
    if not mutant.name.endswith(".npz"):  # whose numbers are believed
        assert (found.volumes > 0).all()
    assert 1 <= found.atomic_numbers.min() <= found.atomic_numbers.max() <= 118
    assert found.num_atoms.max() <= 5000
    assert all(failure.reason for failure in found.failures)


def run(tmp_path, count: int, seed: int) -> None:
    for number, mutant in enumerate(mutants(count, seed)):
        path = tmp_path / mutant.name
        path.write_bytes(mutant.content)
        note = f"{mutant.name} of seed {seed} ({mutant.changes})"
        begun = time.process_time()
        try:
            found = outcome(path)
        except Exception as error:
            raise AssertionError(f"{note}: {type(error).__name__}: {error}") from error
        spent = time.process_time() - begun
        assert spent < SECONDS + SECONDS_PER_MB * len(mutant.content) / 1e6, (
            f"{note}: {spent:.1f} s"
        )
        assert_sound(mutant, found)
        if number % 20 == 0:
            again = outcome(path)
            if isinstance(found, str):
                assert again == found, note
            else:
                assert isinstance(again, Crystals)
                assert again.sha256() == found.sha256(), note
        path.unlink()


def test_damaged_files_of_all_formats_are_read_or_named(tmp_path):
    run(tmp_path, FEW, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_damaged_files_of_all_formats_are_read_or_named(tmp_path, seed):
    run(tmp_path, MANY // 10, seed)


def test_mutants_are_the_same_for_a_seed():
    assert list(mutants(60, seed=5)) == list(mutants(60, seed=5))
    assert list(mutants(60, seed=5)) != list(mutants(60, seed=6))
    assert list(mutants(60, seed=5))[40:] == list(mutants(20, seed=5, start=40))


def test_nothing_of_a_damaged_folder_disappears(tmp_path):
    """Each file has a structure or a failure: read + failed = files, but for several in one."""
    names = []
    for mutant in mutants(360, seed=3):
        if mutant.name.endswith((".cif", ".CIF", ".mcif", ".vasp", ".extxyz", ".cif.gz")):
            (tmp_path / mutant.name).write_bytes(mutant.content)
            names.append(mutant.name)
    found = read(tmp_path, workers=1)
    stems = {name.split(".")[0] for name in names}
    seen = {i.split("/")[0].split(".")[0] for i in found.ids}
    seen |= {f.file.split(" ")[0].split(".")[0] for f in found.failures}
    assert seen == stems
    assert found.num_total >= len(names)
