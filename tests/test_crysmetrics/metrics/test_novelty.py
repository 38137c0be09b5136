"""Novelty and leakage: what of a set is known, and how."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sets import one, random_crystals, rocksalt

import crysmetrics
from crysmetrics.cli import main
from crysmetrics.evaluation import as_sample, evaluate_plan
from crysmetrics.io import Crystals, from_pymatgen, write
from crysmetrics.protocols import plan
from crysmetrics.streaming import evaluate_stream

CUBE = [[0, 0, 0], [0.5, 0.5, 0.5]]


def known() -> Crystals:
    return Crystals.concatenate([rocksalt(), one([3, 8, 8], [*CUBE, [0.5, 0, 0]], 3.5, "LiO2")])


def made() -> Crystals:
    """A supercell of what is known, and what is new in three ways."""
    structure = rocksalt().to_pymatgen()[0]
    structure.make_supercell([[2, 1, 0], [0, 1, 0], [0, 0, 1]])
    return Crystals.concatenate(
        [
            from_pymatgen([structure], ["known"]),
            one([11, 17], CUBE, 3.4, "new crystal"),
            one([3, 8], CUBE, 2.9, "new composition"),
            one([12, 8], rocksalt().frac_coords.tolist(), rocksalt(4.2).lattices[0], "new system"),
            one([11, 17], CUBE, [[4, 0, 0], [0, 4, 0], [4, 4, 0]], "flat"),
        ]
    ).with_failures([("bad.cif", "is empty")])


def test_novelty_says_what_is_new():
    report = crysmetrics.novelty(made(), known(), workers=1, cache="off")
    values = {key: report[key] for key in report.metrics}
    assert values.pop("novelty") == pytest.approx(3 / 6)
    distance = values.pop("novelty_amd")
    assert list(values.values()) == [pytest.approx(1 / 6)] * 3
    table = report.per_structure["gen"].set_index("id")
    assert table["novelty"].tolist()[:5] == [
        *("known crystal", "new crystal of a known composition"),
        *("new composition of a known system", "new system", "can't be compared"),
    ]
    assert table["novel"].tolist() == [False, True, True, True, False, False]
    assert table["known_as"].tolist()[:3] == ["NaCl", "", ""]
    assert table.loc["known", "amd_to_known"] < 1e-6
    # Rock salt of another edge is as far away as its farthest shells.
    assert distance == pytest.approx(table["amd_to_known"].mean())
    assert any(f["file"] == "flat" and "volume" in f["reason"] for f in report.failures)
    assert report.metrics["novelty"].n_gen == 6
    assert report.metrics["novelty"].n_ref == 2


def test_leakage_counts_compositions_prototypes_and_crystals():
    report = crysmetrics.leakage(made(), known(), workers=1, cache="off")
    table = report.per_structure["gen"].set_index("id")
    assert table["composition_known"].tolist() == [True, True, False, False, True, False]
    assert table["prototype_known"].tolist() == [True, False, False, True, False, False]
    assert table["crystal_known"].tolist() == [True, *[False] * 5]
    assert table.loc["new system", "prototype_as"] == "NaCl"
    assert report["leakage_composition"] == pytest.approx(3 / 6)
    assert report["leakage_prototype"] == pytest.approx(2 / 6)
    assert report["leakage_crystal"] == pytest.approx(1 / 6)
    assert report.metrics["leakage_crystal"].ci95[0] > 0


def test_a_set_is_known_to_itself_and_never_novel():
    crystals = random_crystals(30, 4)
    assert crysmetrics.novelty(crystals, crystals, workers=1, cache="off")["novelty"] == 0
    report = crysmetrics.leakage(crystals, crystals, workers=1, cache="off")
    assert {report[key] for key in report.metrics} == {1.0}


def test_parts_give_what_the_whole_set_gives(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSMETRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("crysmetrics.io.parsing._CHUNK", 3)
    crystals = random_crystals(12, 1)
    write(Crystals.concatenate([crystals, rocksalt(5.8, "salt")]), tmp_path / "gen")
    write(Crystals.concatenate([crystals[::2], rocksalt()]), tmp_path / "train")
    (tmp_path / "gen" / "bad.cif").write_text("")
    gen, train = (as_sample(str(tmp_path / n), r) for n, r in (("gen", "gen"), ("train", "train")))
    keys = [*crysmetrics.novelty(gen, train).metrics, "leakage_prototype", "leakage_crystal"]
    chosen = plan(metrics=keys, roles=("gen", "ref", "train"))
    whole = evaluate_plan(chosen, gen, train, train=train)
    ref = as_sample(str(tmp_path / "train"), "ref")
    parts = evaluate_stream(chosen, str(tmp_path / "gen"), ref, train=train, part=5)
    assert whole["novelty"] == pytest.approx(6 / 14)
    for key in keys:
        assert parts.metrics[key].value == pytest.approx(whole.metrics[key].value)
        assert parts.metrics[key].ci95 == pytest.approx(whole.metrics[key].ci95)


def test_commands_compare_with_a_training_set(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSMETRICS_CACHE", str(tmp_path / "cache"))
    write(made()[:4], tmp_path / "gen")
    write(known(), tmp_path / "train")
    (tmp_path / "gen" / "bad.cif").write_text("")
    for command, key in (("novelty", "novelty"), ("leakage", "leakage_crystal")):
        result = CliRunner().invoke(
            main,
            [
                *(command, str(tmp_path / "gen"), str(tmp_path / "train")),
                *("--per-structure", str(tmp_path / f"{command}.csv"), "--workers", "1"),
                *("--tolerances", "0.1,0.2,3"),
            ],
        )
        assert result.exit_code == 0, result.output
        assert key in result.output
        table = pd.read_csv(tmp_path / f"{command}.csv")
        assert len(table) == 5
        assert table["known_as"].eq("NaCl").sum() == 1
    assert np.isfinite(pd.read_csv(tmp_path / "novelty.csv")["amd_to_known"][:4]).all()
    bad = CliRunner().invoke(main, ["novelty", "x", "y", "--tolerances", "loose"])
    assert bad.exit_code == 2
    assert "Tolerances are" in bad.output
