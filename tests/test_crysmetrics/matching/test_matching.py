"""Match rates: what predictions belong to, what counts, and the command."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sets import one, random_crystals, rocksalt
from test_matching_distances import perturbed, plain

import crysmetrics
from crysmetrics import examples
from crysmetrics.cli import main
from crysmetrics.errors import UserError
from crysmetrics.io import Crystals, Failure, read, write
from crysmetrics.matching.pairing import pair, read_table
from crysmetrics.metrics.oxidation import valid_compositions
from crysmetrics.metrics.registry import all_metrics

CELL = 5.64 / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])


def salt(name: str, shift: float = 0.0) -> Crystals:
    """Rock salt, its chlorine moved along the diagonal."""
    return one([11, 17], [[0, 0, 0], [0.5 - shift] * 3], CELL, name)


def caesium_chloride(name: str) -> Crystals:
    """Which no tolerance takes for rock salt."""
    return one([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], 3.6, name)


REFERENCES = Crystals.concatenate(
    [rocksalt(name="a"), caesium_chloride("b"), random_crystals(1, seed=3).with_ids(["c"])]
)


def table(*rows: tuple[str, str, object]) -> str:
    return "file,formula,ref_id,rank\n" + "".join(f"{f},NaN,{r},{k}\n" for f, r, k in rows)


def folder(path: Path, crystals: Crystals, samples: str | None = None) -> Path:
    write(crystals, path)
    if samples is not None:
        (path / "samples.csv").write_text(samples)
    return path


# --- numbers -------------------------------------------------------------------------------


def test_identical_structures_match():
    report = crysmetrics.match(REFERENCES, REFERENCES)
    for key in ("match_rate", "metre"):
        assert report[key] == 1
    for key in ("rmse", "crmse"):
        assert report[key] == pytest.approx(0, abs=1e-6)
    assert report["match_rate_valid"] == pytest.approx(valid_share(REFERENCES))
    assert list(report.metrics) == ["match_rate", "match_rate_valid", "rmse", "crmse", "metre"]
    assert report.settings["top"] == (1,)
    assert report.settings["stol"] == 0.5


def valid_share(crystals: Crystals) -> float:
    valid = valid_compositions(crystals.element_counts, "smact14")
    return float((valid & (crysmetrics_struct_valid(crystals))).mean())


def crysmetrics_struct_valid(crystals: Crystals) -> np.ndarray:
    return crysmetrics.validity(crystals).per_structure["gen"]["struct_valid"].to_numpy()


def test_metre_does_not_ask_for_whom_a_prediction_was():
    """Polymorphs predicted for each other: none matches its own, both are matched."""
    references = Crystals.concatenate([rocksalt(name="a"), caesium_chloride("b")])
    swapped = Crystals.concatenate([caesium_chloride("a"), rocksalt(name="b")])
    report = crysmetrics.match(swapped, references)
    assert report["match_rate"] == 0
    assert report["metre"] == 1
    assert report["crmse"] == 0.5
    assert report.metrics["metre"].note == "its cRMSE is 0.0000"
    assert report["rmse"] is None
    assert report.metrics["rmse"].reason == "no pair matches"
    alone = crysmetrics.match(swapped, references, metre=False)
    assert "metre" not in alone.metrics
    assert alone["match_rate"] == 0


def test_best_of_the_first_ranks(tmp_path):
    shifts = {2: 0.04, 3: 0.01, 4: 0.02}
    guesses = [salt(f"p{k}", s) for k, s in shifts.items()]
    crystals = Crystals.concatenate([caesium_chloride("p1"), *guesses])
    samples = table(*((f"p{k}.cif", "a", k) for k in range(1, 5)))
    gen = folder(tmp_path / "gen", crystals, samples)
    report = crysmetrics.match(str(gen), REFERENCES[[0]], top=(1, 2, 20))
    assert report["match_rate"] == 0
    assert report["match_rate_top2"] == report["match_rate_top20"] == 1
    index = np.array([(1, 0), (2, 0)])
    second, third = plain(crystals, REFERENCES[[0]], index)
    assert report["rmse_top2"] == pytest.approx(second, abs=1e-8)
    assert report["rmse_top20"] == pytest.approx(third, abs=1e-8)
    assert report["crmse"] == 0.5
    assert report.metrics["match_rate_top2"].n_gen == 2
    assert report.metrics["match_rate_top20"].n_gen == 4
    assert "ref_id and rank" in report.metrics["match_rate"].note
    only = crysmetrics.match(str(gen), REFERENCES[[0]], top=2)
    assert "match_rate" not in only.metrics
    assert only["match_rate_top2"] == 1


def test_published_rules_by_brute_force(tmp_path):
    """Match rates and RMSE as DiffCSP's script counts, with pymatgen itself."""
    _, path = examples.unpack(tmp_path)
    references = read(path, workers=1)
    references = references[np.flatnonzero(references.num_atoms <= 12)[:30]]
    predictions = perturbed(references, 0.12, 0.08, seed=1).with_ids(references.ids)
    report = crysmetrics.match(predictions, references)
    index = np.stack([np.arange(len(references))] * 2, axis=1)
    distances = plain(predictions, references, index)
    matched = np.isfinite(distances)
    assert 0 < matched.sum() < len(matched)
    assert report["match_rate"] == pytest.approx(matched.mean())
    assert report["rmse"] == pytest.approx(distances[matched].mean(), abs=1e-8)
    assert report["crmse"] == pytest.approx(np.where(matched, distances, 0.5).mean(), abs=1e-8)
    valid = np.ones(len(references), dtype=bool)
    for crystals in (predictions, references):
        valid &= crysmetrics_struct_valid(crystals)
        valid &= valid_compositions(crystals.element_counts, "smact14")
    assert report["match_rate_valid"] == pytest.approx((matched & valid).mean())
    assert f"{distances[matched & valid].mean():.4f}" in report.metrics["match_rate_valid"].note
    assert 0 < report["match_rate_valid"] < report["match_rate"]


def test_uncertainties():
    references = Crystals.concatenate([rocksalt(name=str(i)) for i in range(8)])
    good = [salt(str(i), 0.01 * i) for i in range(6)]
    wrong = [caesium_chloride(str(i)) for i in range(6, 8)]
    predictions = Crystals.concatenate([*good, *wrong])
    report = crysmetrics.match(predictions, references, metre=False)
    rate, rmse = report.metrics["match_rate"], report.metrics["rmse"]
    assert rate.value == 0.75
    assert rate.stderr == pytest.approx((0.75 * 0.25 / 8) ** 0.5)
    terms = report.per_structure["ref"]["rms"].dropna()
    assert rmse.value == pytest.approx(terms.mean())
    assert rmse.stderr == pytest.approx(terms.std(ddof=0) / 6**0.5)
    for value in report.metrics.values():
        assert value.ci95[0] <= value.value <= value.ci95[1]


# --- what is missing -------------------------------------------------------------------------


def test_every_failure_is_accounted_for(tmp_path):
    crystals = Crystals.concatenate([salt(name) for name in ("good", "other", "stray", "odd")])
    rows = [
        ("bad.cif", "a", 1),
        ("good.cif", "a", 2),
        ("gone.cif", "b", 1),
        ("other.cif", "b", 2),
        ("odd.cif", "nobody", 1),
    ]
    gen = folder(tmp_path / "gen", crystals, table(*rows))
    (gen / "bad.cif").write_text("no crystal")
    references = REFERENCES.with_failures([Failure("x.cif", "is empty")])
    report = crysmetrics.match(str(gen), references, top=(1, 2))
    assert report["match_rate"] == 0
    assert report["match_rate_top2"] == pytest.approx(1 / 3)
    assert report.metrics["match_rate"].n_gen == 2
    assert report.metrics["match_rate"].n_ref == 3
    assert "1 of 3 references have no prediction" in report.metrics["match_rate_top2"].note
    failures = {(f["input"], f["file"]): f["reason"] for f in report.failures}
    assert "can't be read as CIF" in failures["gen", "bad.cif"]
    assert "no such file" in failures["gen", "gone.cif"]
    assert "'nobody', which is no reference" in failures["gen", "odd.cif"]
    assert "not named in samples.csv" in failures["gen", "stray"]
    assert "has no prediction" in failures["ref", "c"]
    assert failures["ref", "x.cif"] == "is empty"
    assert len(failures) == 6
    by_ref = report.per_structure["ref"].set_index("id")
    assert by_ref.loc["a", "predictions"] == 2
    by_gen = report.per_structure["gen"].set_index("id")
    assert by_gen.loc["good", "ref_id"] == "a"
    assert by_gen.loc["stray", "ref_id"] == ""


def test_predictions_without_any_reference_still_have_metre():
    strangers = REFERENCES.with_ids(["x", "y", "z"])
    report = crysmetrics.match(strangers, REFERENCES)
    assert report["match_rate"] is None
    assert "no prediction belongs to a reference" in report.metrics["match_rate"].reason
    assert report["metre"] == 1
    assert report.failures == ()
    assert json.loads(report.to_json())["metrics"]["rmse"]["value"] is None


def test_failures_are_paired_by_file_name():
    predictions = REFERENCES[[0]].with_failures([Failure("deep/b.cif", "is empty")])
    report = crysmetrics.match(predictions, REFERENCES[[0, 1]])
    assert report["match_rate"] == 0.5
    assert report.metrics["match_rate"].n_gen == 2
    assert "no prediction" not in report.metrics["match_rate"].note


# --- pairing -----------------------------------------------------------------------------------


def test_archives_may_hold_the_table(tmp_path):
    crystals = Crystals.concatenate([salt("one"), caesium_chloride("two")])
    samples = table(("one.cif", "a", 1), ("two.cif", "b", 1))
    gen = folder(tmp_path / "gen", crystals, samples)
    archive = tmp_path / "gen.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in gen.iterdir():
            file.write(path, f"wrapped/{path.name}")
    subprocess.run(["tar", "-czf", tmp_path / "gen.tar.gz", "-C", tmp_path, "gen"], check=True)
    for path in (gen, archive, tmp_path / "gen.tar.gz"):
        assert read_table(path)["ref_id"] == ["a", "b"]
        assert crysmetrics.match(str(path), REFERENCES[[0, 1]])["match_rate"] == 1
    assert read_table(tmp_path) is None


def test_properties_pair_as_well():
    crystals = Crystals.concatenate(
        [caesium_chloride("one"), salt("two"), caesium_chloride("three")]
    )
    with_properties = Crystals(
        crystals.atomic_numbers,
        crystals.frac_coords,
        crystals.lattices,
        crystals.num_atoms,
        crystals.ids,
        {"ref_id": np.array(["a", "a", "b"]), "rank": np.array([1, 2, 1])},
    )
    report = crysmetrics.match(with_properties, REFERENCES[[0, 1]], top=(1, 2))
    assert report["match_rate"] == 0.5
    assert report["match_rate_top2"] == 1


def test_without_ranks_rows_count(tmp_path):
    crystals = Crystals.concatenate([salt("one"), salt("two"), salt("three")])
    rows = [("two.cif", "a", ""), ("one.cif", "a", ""), ("three.cif", "b", "")]
    gen = folder(tmp_path / "gen", crystals, table(*rows))
    pairing = pair(read(gen), REFERENCES, str(gen))
    ranks = dict(zip(read(gen).ids, pairing.rank.tolist(), strict=True))
    assert ranks == {"one": 2, "two": 1, "three": 1}


def test_in_order():
    predictions = REFERENCES.with_ids(["0", "1", "2"])
    assert crysmetrics.match(predictions, REFERENCES, pairing="order")["match_rate"] == 1
    with pytest.raises(UserError, match="2 predictions and 3 references"):
        crysmetrics.match(predictions[:2], REFERENCES, pairing="order")
    failed = predictions.with_failures([Failure("x", "is empty")])
    with pytest.raises(UserError, match="can't be paired in order"):
        crysmetrics.match(failed, REFERENCES, pairing="order")
    with pytest.raises(UserError, match="auto or order"):
        crysmetrics.match(predictions, REFERENCES, pairing="name")


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ("", "is empty"),
        ("file,rank\n", "no column named ref_id"),
        (table(("one.cif", "a", 0)), "whole numbers from 1"),
        (table(("one.cif", "a", "1.5")), "whole numbers from 1"),
        (table(("one.cif", "a", "best")), "whole numbers from 1"),
        (table(("one.cif", "a", 1), ("two.cif", "a", 1)), "two predictions of rank 1"),
        ('file,ref_id\n"one', "no table that can be read"),
    ],
)
def test_bad_tables_are_one_sentence(tmp_path, samples, reason):
    gen = folder(tmp_path / "gen", Crystals.concatenate([salt("one"), salt("two")]), samples)
    with pytest.raises(UserError, match=reason) as error:
        crysmetrics.match(str(gen), REFERENCES)
    assert "\n" not in str(error.value)


# --- vocabulary and command --------------------------------------------------------------------


def test_keys_of_the_best_of_several_are_known():
    metrics = all_metrics()
    assert metrics["match_rate_top5"].better == "higher"
    assert metrics["rmse_top137"].unit == metrics["rmse"].unit
    assert "match_rate_top20" in list(metrics)
    assert "crmse_top3" in metrics
    for key in ("match_rate_top", "match_rate_top0", "match_rate_top1", "fad_top5", "top5"):
        assert key not in metrics
        with pytest.raises(KeyError):
            metrics[key]


def test_top_must_make_sense():
    for top in ((), (0,), -1):
        with pytest.raises(UserError, match="1 or more"):
            crysmetrics.match(REFERENCES, REFERENCES, top=top)


def test_command(tmp_path):
    gen = folder(tmp_path / "gen", REFERENCES, None)
    ref = folder(tmp_path / "ref", REFERENCES, None)
    (gen / "c.cif").unlink()
    out = {name: tmp_path / f"{name}.csv" for name in ("structure", "reference")}
    arguments = [
        *("match", str(gen), str(ref), "--top", "1,5", "--json", "-", "--workers", "1"),
        *("--per-structure", str(out["structure"]), "--per-reference", str(out["reference"])),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["schema"] == "crysmetrics/1"
    assert document["metrics"]["match_rate_top5"]["value"] == pytest.approx(2 / 3)
    assert document["settings"]["top"] == [1, 5]
    assert "or have no prediction, and count as not matched:" in result.stderr
    assert "c: has no prediction" in result.stderr
    assert "rms_top5" in out["reference"].read_text()
    assert "ref_id" in out["structure"].read_text()
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert "exists already" in refused.output


@pytest.mark.parametrize("top", ["0", "x", "1,,5", "-3", ""])
def test_command_refuses_bad_numbers(tmp_path, top):
    result = CliRunner().invoke(main, ["match", str(tmp_path), str(tmp_path), f"--top={top}"])
    assert result.exit_code == 2
    assert "--top takes whole numbers" in result.output


def test_help_imports_nothing_heavy():
    call = "main(['match', '--help'], standalone_mode=False)"
    code = f"import sys; from crysmetrics.cli import main; {call}"
    check = f"{code}; assert 'numpy' not in sys.modules and 'numba' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--per-reference" in result.stdout
