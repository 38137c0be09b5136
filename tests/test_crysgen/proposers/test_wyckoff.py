"""Crystals of drawn space groups: `--method wyckoff`, `--space-group auto`, and as fallback."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from crysgen.cli import main
from crysgen.cli.options import parse_sites
from crysgen.compositions.formulas import parse_formula
from crysgen.proposers.auto import ModelShare
from crysgen.requests import ask_formulas
from crysgen.settings import Resources, SamplingSettings
from crysgen.wyckoff.draws import draw_orbits
from crysgen.wyckoff.fillings import Fillings, contents_of
from crysgen.wyckoff.groups import draw_space_group
from crysmetrics.errors import UserError
from crysmetrics.io import Crystals, read
from crysmetrics.space_group_settings import point_group_order
from crysmetrics.space_groups.groups import space_group

QUICK = ("--steps", "2", "--no-energies", "--workers", "1", "--device", "cpu", "--quiet")


def sample(folder: Path, *args: str, status: int = 0) -> str:
    done = CliRunner().invoke(main, ["sample", "-o", str(folder), *QUICK, *args])
    assert done.exit_code == status, done.output
    return done.output


@pytest.mark.parametrize("atoms", [(22, 22, 8, 8, 8, 8), (56, 22, 8, 8, 8), (2, 86, 86, 54)])
def test_groups_that_are_drawn_have_a_place_for_the_atoms(atoms: tuple[int, ...]) -> None:
    groups = [draw_space_group(atoms, seed) for seed in range(30)]
    assert len(set(groups)) > 2
    assert groups == [draw_space_group(atoms, seed) for seed in range(30)]
    for number in set(groups):
        assert sorted(draw_orbits(number, atoms, 0).atomic_numbers) == sorted(atoms)


def test_groups_follow_what_known_crystals_have() -> None:
    perovskites = [draw_space_group((56, 22, 8, 8, 8), seed) for seed in range(60)]
    assert perovskites.count(221) > 20


@pytest.mark.parametrize(
    "way", [("--method", "wyckoff"), ("--method", "diffusion", "--space-group", "auto")]
)
def test_samples_have_the_groups_that_were_drawn(way: tuple[str, ...], tmp_path: Path) -> None:
    sample(tmp_path / "out", "--composition", "SrTiO3", "-n", "4", "--formula-units", "1", *way)
    table = pd.read_csv(tmp_path / "out" / "samples.csv")
    assert (table.formula == "SrTiO3").all()
    assert len(table) == 4
    drawn = {draw_space_group((38, 22, 8, 8, 8), int(seed)) for seed in table.seed}
    orders = {n: len(space_group(n).rotations) / space_group(n).centring for n in range(1, 231)}
    assert (table.space_group_tight.map(orders) >= min(map(orders.get, drawn))).all()


@pytest.mark.parametrize(
    ("formula", "number"), [("TiO2", 136), ("MgAl2O4", 227), ("BaTiO3", 99), ("NaCl", 166)]
)
def test_refinement_keeps_to_the_group_that_is_asked_for(
    formula: str, number: int, tmp_path: Path
) -> None:
    group = ("--space-group", str(number))
    args = ["--composition", formula, "-n", "3", "--method", "refine", *group]
    done = CliRunner().invoke(main, ["sample", "-o", str(tmp_path / "out"), *QUICK[2:], *args])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "out" / "samples.csv")
    assert len(table)
    assert set(table.formula) == {formula}
    assert (table.space_group == number).all()
    assert (table.space_group_tight.map(point_group_order) >= point_group_order(number)).all()


def test_refinement_keeps_the_groups_of_prototypes_where_none_is_given(tmp_path: Path) -> None:
    args = ["--composition", "BaTiO3", "-n", "4", "--method", "refine", "--space-group", "auto"]
    done = CliRunner().invoke(main, ["sample", "-o", str(tmp_path / "out"), *QUICK[2:], *args])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "out" / "samples.csv")
    assert len(set(table.space_group_tight)) > 1
    assert (table.space_group_tight == table.space_group).all()
    assert 1 not in set(table.space_group_tight)


def test_what_has_no_place_in_a_group_is_refused_by_every_method(tmp_path: Path) -> None:
    for method in ("auto", "retrieval", "refine", "diffusion", "wyckoff"):
        args = ("--composition", "TiO2", "--space-group", "230", "--method", method, "-n", "2")
        said = sample(tmp_path / method, *args, status=2)
        assert "nearest cells that work hold 8" in said


def test_what_no_library_knows_gets_a_space_group() -> None:
    requests = ask_formulas([parse_formula("TiO2"), parse_formula("ZrO2")], 4, units=(2,))
    method = ModelShare(requests, SamplingSettings(), Resources(device="cpu"))
    method.plan(Crystals.empty())
    groups = {draw.target.space_group for draw in method._draws()}
    assert None not in groups
    for number in groups:
        group = space_group(number)
        assert Fillings(group, contents_of(parse_formula("Ti2O4"), 1, group)).count


def test_sites_of_a_group(tmp_path: Path) -> None:
    sample(tmp_path / "out", "--sites", "Li:2,O", "--space-group", "62", "-n", "2")
    for crystal in read(tmp_path / "out", workers=1):
        assert set(crystal.atomic_numbers.tolist()) == {3, 8}
    wrong = sample(tmp_path / "no", "--sites", "Li:2,O", status=2)
    assert "--sites goes with one --space-group" in wrong


@pytest.mark.parametrize("text", ["", "Li:0", "Qq:1", "Li:x", "Li2O", "O:100"])
def test_sites_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_sites(text)
