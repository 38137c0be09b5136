from functools import partial

import numpy as np
import pytest
from scipy.stats import wasserstein_distance
from sets import one, random_crystals, rocksalt

import crysmetrics
from crysmetrics.errors import UserError
from crysmetrics.features.alignn.extractor import formation_energies
from crysmetrics.io import Crystals, Failure
from crysmetrics.metrics.emd import densities, num_elements

emd = partial(crysmetrics.emd, properties=("density", "num_elements"))


def test_density_is_pymatgens():
    crystals = random_crystals(30)
    assert densities(crystals) == pytest.approx([s.density for s in crystals.to_pymatgen()])


def test_number_of_elements():
    crystals = random_crystals(30)
    expected = [len(s.composition.elements) for s in crystals.to_pymatgen()]
    assert num_elements(crystals).tolist() == expected


def test_emd_of_a_set_with_itself_is_zero():
    report = emd(random_crystals(20), random_crystals(20))
    assert report["emd_density"] == 0
    assert report["emd_num_elements"] == 0


def test_emd_is_the_wasserstein_distance():
    gen, ref = random_crystals(40, 1), random_crystals(50, 2)
    report = emd(gen, ref)
    assert report["emd_density"] == pytest.approx(
        wasserstein_distance([s.density for s in gen.to_pymatgen()], densities(ref))
    )
    assert report.metrics["emd_density"].n_gen == 40
    assert report.metrics["emd_density"].n_ref == 50


def test_energies_are_those_of_alignn():
    gen, ref = random_crystals(6, 1), random_crystals(7, 2)
    report = crysmetrics.emd(gen, ref, properties=("energy",), cache="off")
    assert set(report.metrics) == {"emd_energy"}
    ours, theirs = (formation_energies(c)[0] for c in (gen, ref))
    assert report["emd_energy"] == pytest.approx(wasserstein_distance(ours, theirs))
    assert report.extractors["alignn"]["hash"]
    assert crysmetrics.emd(gen, gen, cache="off")["emd_energy"] == 0


def test_failures_are_left_out_and_named():
    gen = rocksalt().with_failures([Failure("bad.cif", "is empty")])
    report = emd(gen, rocksalt())
    assert report["emd_density"] == 0
    assert report.metrics["emd_density"].n_gen == 1
    assert report.inputs["gen"]["failed"] == 1


def mixed_set() -> Crystals:
    crowded = [one([11, 17], [[0, 0, 0], [0.001, 0, 0]], 5.0, f"crowded-{i}") for i in range(10)]
    good = [rocksalt(5 + 0.1 * i, f"good-{i}") for i in range(10)]
    return Crystals.concatenate([*crowded, *good])


def test_subsets():
    gen, ref = mixed_set(), mixed_set()
    assert emd(gen, ref, subset="valid").metrics["emd_density"].n_gen == 10
    assert emd(gen, ref, subset="15").metrics["emd_density"].n_gen == 15
    drawn = [emd(gen, ref, subset="valid:5", seed=s)["emd_density"] for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(UserError, match="there are 10"):
        emd(gen, ref, subset="valid:11")
    for nonsense in ("valid:0", "some", "-3", "valid:"):
        with pytest.raises(UserError, match="subset"):
            emd(gen, ref, subset=nonsense)


def test_settings_name_what_the_subset_depends_on():
    report = emd(mixed_set(), mixed_set(), subset="valid:5")
    assert report.settings["oxidation_states"] == "smact14"
    assert report.settings["subset"] == "valid:5"
    assert "min_distance" not in emd(mixed_set(), mixed_set()).settings


def test_single_structures_have_no_standard_error():
    value = emd(rocksalt(5.0), rocksalt(6.0)).metrics["emd_density"]
    assert value.value > 0
    assert value.stderr is None
    assert value.ci95 is None
    assert np.isfinite(value.value)
