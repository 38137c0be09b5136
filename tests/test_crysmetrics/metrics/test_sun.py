"""Stable, unique, novel and symmetric at once, against counting by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sets import one, random_crystals, rocksalt

import crysmetrics
from crysmetrics.cli import main
from crysmetrics.errors import UserError
from crysmetrics.io import Crystals, write
from crysmetrics.io.energies import with_energies
from crysmetrics.metrics.sun import COMBINATIONS

ENERGIES = [0.3, 0.0, 0.05, -0.01, 0.08, np.nan, 0.0]


def made() -> Crystals:
    """Rock salt, known; a new crystal three times, of which the second lies on the hull; others."""
    random = random_crystals(2, 5)
    crystals = Crystals.concatenate(
        [
            one([12, 8], rocksalt().frac_coords.tolist(), rocksalt(4.2).lattices[0], "a"),
            one([12, 8], rocksalt().frac_coords.tolist(), rocksalt(4.2).lattices[0], "b"),
            one([12, 8], rocksalt().frac_coords.tolist(), rocksalt(4.3).lattices[0], "c"),
            rocksalt(5.64, "known"),
            random.with_ids(["r1", "r2"]),
            one([19, 17], [[0, 0, 0], [0.3, 0.35, 0.28]], np.diag([4.0, 4.3, 4.9]), "p1"),
        ]
    )
    return crystals.with_failures([("bad.cif", "is empty")])


def with_property(crystals: Crystals) -> Crystals:
    return replace(crystals, properties={"e_above_hull": np.array(ENERGIES)})


def test_every_combination_is_counted():
    report = crysmetrics.sun(with_property(made()), rocksalt(name="x"), workers=1, cache="off")
    table = report.per_structure["gen"].set_index("id")
    assert table["symmetric"].tolist() == [True, True, True, True, False, False, False, False]
    counts = {
        "unique_novel": 4,  # a, r1, r2, p1
        "unique_symmetric": 2,
        "novel_symmetric": 3,
        "unique_novel_symmetric": 1,
        "stable_unique": 3,  # b (for a), known, p1
        "stable_novel": 2,
        "stable_symmetric": 2,
        "stable_unique_symmetric": 2,
        "stable_novel_symmetric": 1,
        "sun": 2,
        "sun_symmetric": 1,
        "metastable_unique": 4,
        "metastable_novel": 4,
        "metastable_symmetric": 3,
        "metastable_unique_symmetric": 2,
        "metastable_novel_symmetric": 2,
        "msun": 3,  # b or c, r1, p1
        "msun_symmetric": 1,
    }
    found = {key: report[key] * 8 for key in COMBINATIONS if report[key] is not None}
    assert found == pytest.approx(counts | {k: found[k] for k in found if k not in counts})
    assert set(counts) == set(COMBINATIONS)
    for key in counts:
        low, high = report.metrics[key].ci95
        assert low <= report[key] <= high
        assert report.metrics[key].n_gen == 8
    assert any(f["file"] == "r2" and "energy" in f["reason"] for f in report.failures)


def test_counts_do_not_depend_on_the_order():
    crystals = with_property(made())
    expected = crysmetrics.sun(crystals, rocksalt(), workers=1, cache="off")
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(crystals))
        mixed = crystals[order].with_failures(crystals.failures)
        found = crysmetrics.sun(mixed, rocksalt(), workers=1, cache="off")
        for key in COMBINATIONS:
            assert found[key] == expected[key], key


def test_without_energies_there_is_what_needs_none():
    report = crysmetrics.sun(made(), rocksalt(), workers=1, cache="off")
    assert report["unique_novel"] == pytest.approx(4 / 8)
    assert report["sun"] is None
    assert "stability" in str(report.metrics["msun"].reason)


def test_energies_come_from_a_table(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSMETRICS_CACHE", str(tmp_path / "cache"))
    write(made(), tmp_path / "gen")
    write(rocksalt(), tmp_path / "train")
    table = pd.DataFrame({"file": [f"{name}.cif" for name in made().ids], "e_above_hull": ENERGIES})
    table.drop(index=4).to_csv(tmp_path / "stability.csv", index=False)
    args = ["sun", str(tmp_path / "gen"), str(tmp_path / "train"), "--workers", "1"]
    result = CliRunner().invoke(main, [*args, "--energies", str(tmp_path / "stability.csv")])
    assert result.exit_code == 0, result.output
    assert "msun" in result.output
    assert "r1: e_above_hull failed: no energy is given" in result.output
    assert "stable_rate" in result.output
    both = CliRunner().invoke(main, [*args, "--energies", "x.csv", "--potential", "chgnet"])
    assert both.exit_code == 2
    assert "not both" in both.output
    plain = CliRunner().invoke(main, args)
    assert "msun" in plain.output
    assert "stable_novel" not in plain.output
    named = with_energies(made(), tmp_path / "stability.csv").properties["e_above_hull"]
    np.testing.assert_array_equal(named, [*ENERGIES[:4], np.nan, *ENERGIES[5:]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,energy\na,1\n", "column e_above_hull"),
        ("e_above_hull\n1\n", "column id or file"),
        ("id,e_above_hull\na,1\na,2\n", "two rows"),
        ("id,e_above_hull\nother,1\n", "names none"),
        ("", "no table"),
    ],
)
def test_tables_that_are_no_good_are_refused(tmp_path, text, message):
    (tmp_path / "e.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        with_energies(made(), tmp_path / "e.csv")
    with pytest.raises(UserError, match="can't be read"):
        with_energies(made(), tmp_path / "none.csv")


@pytest.mark.parametrize("protocol", ["full", "brief", "mattergen", "crysldm"])
def test_protocols_take_the_energies_that_structures_bring_along(protocol, tmp_path, monkeypatch):
    def relax(*args, **options):
        raise AssertionError("energies are given")

    monkeypatch.setattr("crysmetrics.features.e_above_hull.stability", relax)
    gen = with_property(made())
    metrics = {
        "full": ["stable_rate", "metastable_rate", "sun", "msun", "stable_novel"],
        "brief": ["sun"],
        "mattergen": ["stable_rate", "metastable_rate", "sun", "msun", "metastable_unique"],
        "crysldm": ["metastable_rate"],
    }[protocol]
    options = {"train": rocksalt(name="x"), "workers": 1, "cache": "off"}
    report = crysmetrics.evaluate(gen, rocksalt(), protocol=protocol, **options)
    expected = {
        "stable_rate": 3 / 8,
        "metastable_rate": 5 / 8,
        "stable_novel": 2 / 8,
        "metastable_unique": 4 / 8,
        "sun": 2 / 8,
        "msun": 3 / 8,
    }
    for key in metrics:
        assert report[key] == pytest.approx(expected[key]), key
    if "stable_rate" in metrics:
        assert "energies above the hull that were given" in str(report.metrics["stable_rate"].note)


def test_a_potential_that_is_named_counts_more_than_given_energies(monkeypatch):
    from crysmetrics.above_hull import StabilitySettings

    def relax(crystals, *args, **options):
        raise UserError("was asked")

    monkeypatch.setattr("crysmetrics.features.e_above_hull.stability", relax)
    pytest.importorskip("chgnet")
    options = {"stability": StabilitySettings(), "workers": 1, "cache": "off"}
    with pytest.raises(UserError, match="was asked"):
        crysmetrics.evaluate(
            with_property(made()), rocksalt(), metrics=["metastable_rate"], **options
        )
