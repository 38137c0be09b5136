import io
import json
import re
import subprocess
import sys

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sets import random_crystals, rocksalt

import crysmetrics
from crysgen.cli import main as crysgen
from crysmetrics import examples
from crysmetrics.cli import main
from crysmetrics.io import read, write
from crysmetrics.metrics.registry import all_measures, all_metrics

CONTRACT_KEYS = set(
    "struct_validity comp_validity validity emd_density emd_energy emd_energy_cdvae "
    "emd_num_elements cov_recall "
    "cov_precision cov_recall_marginal cov_precision_marginal amsd_recall amsd_precision "
    "amcd_recall amcd_precision struct_diversity comp_diversity fad fad_inf kad fd_crystalnn "
    "fd_cgcnn match_rate match_rate_valid rmse rmsd_relaxed metre crmse "
    "uniqueness novelty stable_rate "
    "metastable_rate stability_cost sun msun symmetric_share symmetric_share_tight "
    "space_group_jsd uniqueness_amd novelty_known_composition novelty_new_composition "
    "novelty_new_system novelty_amd leakage_composition leakage_prototype leakage_crystal "
    "unique_novel unique_symmetric novel_symmetric unique_novel_symmetric sun_symmetric "
    "msun_symmetric stable_unique stable_novel stable_symmetric stable_unique_symmetric "
    "stable_novel_symmetric metastable_unique metastable_novel metastable_symmetric "
    "metastable_unique_symmetric metastable_novel_symmetric sr5 sr10 sr15".split()
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSMETRICS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def sets(tmp_path):
    for name, seed in (("gen", 1), ("ref", 2)):
        write(random_crystals(12, seed), tmp_path / name)
    (tmp_path / "gen" / "bad.cif").write_text("")
    return str(tmp_path / "gen"), str(tmp_path / "ref")


def run(*args: str, status: int = 0):
    result = CliRunner().invoke(main, list(args))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    assert result.exit_code == status, result.output
    return result


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from crysmetrics.cli import main as a\n"
        "from crysgen.cli import main as b\n"
        "for command in (a, b):\n"
        "    try: command(['--help'])\n"
        "    except SystemExit: pass\n"
        "heavy = {'numpy', 'torch', 'pandas', 'scipy', 'pymatgen', 'numba', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    assert "coverage" in done.stdout


def every_option():
    """(command, option) of both programs, those of subcommands among them."""
    waiting = [("crysmetrics", main), ("crysgen", crysgen)]
    while waiting:
        name, command = waiting.pop()
        context = click.Context(command, info_name=name)
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                waiting.append((f"{name} {child}", command.get_command(context, child)))
        for param in command.params:
            if isinstance(param, click.Option):
                yield name, param, param.make_metavar(context)


def test_every_option_says_in_a_sentence_what_it_does():
    for command, option, placeholder in every_option():
        text = (option.help or "").partition("  [default")[0]
        assert re.fullmatch(r"[A-Z][a-z0-9]+ .*\w.*[.]", text), (command, option.name)
        # A sentence begins with what the option does, not with what it is.
        assert text.split()[0] not in ("The", "A", "An", "Of", "With", "In", "Comma-separated:")
        assert "RANGE" not in placeholder, (command, option.name)


def test_every_command_has_help():
    for command in main.list_commands(None):
        assert "Usage" in run(command, "--help").output


def test_declared_metrics_are_those_of_the_contract():
    assert {key.partition("_top")[0] for key in all_metrics()} <= CONTRACT_KEYS
    declared = [m.key for measure in all_measures().values() for m in measure.metrics]
    assert len(declared) == len(set(declared))
    for metric in all_metrics().values():
        assert metric.better in ("higher", "lower")
        assert metric.source
        assert metric.unit


def check_document(document, keys, roles):
    assert document["schema"] == "crysmetrics/1"
    assert set(document) == {
        *("schema", "metrics", "settings", "extractors", "inputs", "failures", "versions"),
        "timing",
    }
    assert set(document["metrics"]) == set(keys)
    for entry in document["metrics"].values():
        assert {"value", "unit", "better", "stderr", "ci95", "n_gen", "n_ref"} <= set(entry)
        if entry["value"] is None:
            assert entry["reason"]
        elif entry["ci95"]:
            assert entry["ci95"][0] <= entry["value"] <= entry["ci95"][1]
    assert set(document["inputs"]) == set(roles)
    for entry in document["inputs"].values():
        assert set(entry) == {"path", "read", "failed", "sha256"}
    for failure in document["failures"]:
        assert set(failure) == {"input", "file", "reason"}
    assert "crysmetrics" in document["versions"]


COVERAGE = [k for k in CONTRACT_KEYS if k.startswith(("cov_", "amsd", "amcd"))]


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (["validity", "GEN"], ["struct_validity", "comp_validity", "validity"]),
        (
            ["emd", "GEN", "REF"],
            ["emd_density", "emd_energy", "emd_energy_cdvae", "emd_num_elements"],
        ),
        (["emd", "GEN", "REF", "--property", "density"], ["emd_density"]),
        (["coverage", "GEN", "REF", "--thresholds", "0.5,12"], COVERAGE),
        (["frechet", "GEN", "REF"], ["fd_crystalnn"]),
        (["diversity", "GEN"], ["struct_diversity", "comp_diversity"]),
        (["fad", "GEN", "REF"], ["fad", "fad_inf", "kad"]),
        (["uniqueness", "GEN"], ["uniqueness", "uniqueness_amd"]),
        (["symmetric-share", "GEN"], ["symmetric_share", "symmetric_share_tight"]),
        (["space_group_jsd", "GEN", "REF"], ["space_group_jsd"]),
    ],
)
def test_commands_report_by_the_contract(sets, tmp_path, command, keys):
    args = [{"GEN": sets[0], "REF": sets[1]}.get(a, a) for a in command]
    result = run(*args, "--json", str(tmp_path / "out.json"))
    document = json.loads((tmp_path / "out.json").read_text())
    check_document(document, keys, ["gen", "ref"] if "REF" in command else ["gen"])
    assert document["inputs"]["gen"]["failed"] == 1
    assert {"input": "gen", "file": "bad.cif", "reason": "is empty"} in document["failures"]
    for key in keys:
        assert key in result.stdout
    assert "bad.cif: is empty" in result.stdout
    # The same from standard output, and again: everything but time is the same.
    again = json.loads(run(*args, "--json", "-", "--workers", "1").stdout)
    again["timing"] = document["timing"]
    assert json.dumps(again) == json.dumps(document)


def test_table_is_on_standard_error_beside_json(sets):
    result = run("validity", sets[0], "--json", "-")
    json.loads(result.stdout)
    assert "struct_validity" in result.stderr
    assert run("validity", sets[0], "--json", "-", "--quiet").stderr == ""


def test_python_gives_the_same_numbers(sets):
    document = json.loads(run("coverage", *sets, "--json", "-").stdout)
    report = crysmetrics.coverage(*sets)
    assert document["metrics"] == report.as_json()["metrics"]
    table = report.to_pandas()
    assert table.loc["cov_recall", "value"] == report["cov_recall"]


def test_zip_and_folder_are_the_same_input(sets, tmp_path):
    write(read(sets[1]), tmp_path / "ref.zip")
    a, b = (
        json.loads(run("validity", path, "--json", "-").stdout)["inputs"]["gen"]["sha256"]
        for path in (sets[1], str(tmp_path / "ref.zip"))
    )
    assert a == b


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["validity", "nowhere"], "nowhere does not exist"),
        (["emd", "GEN", "nowhere"], "nowhere does not exist"),
        (["fad", "GEN", "REF", "--alignn", "mp_e_form_alignn"], "can't be downloaded"),
        (["fad", "GEN", "REF", "--alignn", "nonsense"], "nonsense"),
        (["fad", "GEN", "REF", "--device", "tpu"], "tpu"),
        (["fad", "GEN", "REF", "--by-size", "x", "--by-folder", "y"], "not both"),
        (["fad", "EXISTS", "REF", "--by-folder", "x"], "no folder"),
        (["emd", "GEN", "REF", "--subset", "valid:999"], "asks for 999"),
        (["emd", "GEN", "REF", "--subset", "most"], "subset"),
        (["coverage", "GEN", "REF", "--thresholds", "mp21"], "mp20, perov5, carbon24"),
        (["coverage", "GEN", "REF", "--sweep", "x.doc"], ".csv, .png"),
        (["validity", "GEN", "--oxidation-states", "x"], "smact14"),
        (["frechet", "GEN", "REF", "--features", "x"], "crystalnn, cgcnn"),
        (["featurize", "GEN", "-o", "x.npz", "--features", "x"], "crystalnn"),
        (["featurize", "GEN", "-o", "x.txt"], "written as .npz; x.txt"),
        (["hull", "build", "REF", "-o", "x.csv"], "written as .npz; x.csv"),
        (["validity", "EMPTY"], "is empty"),
        (["validity", "BROKEN"], "None of the 2 structures"),
        (["validity", "GEN", "--json", "EXISTS"], "--overwrite"),
        (["convert", "GEN", "EXISTS"], "--overwrite"),
        (["convert", "GEN", "x.csv"], "can write"),
        (["demo", "-o", "GEN", "--overwrite"], "not replaced"),
    ],
)
def test_errors_of_users_are_one_sentence_and_status_2(sets, tmp_path, args, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.cif").write_text("")
    (tmp_path / "broken" / "b.cif").write_text("<html>")
    exists = tmp_path / "exists.npz"
    exists.write_text("precious")
    names = {
        "GEN": sets[0],
        "REF": sets[1],
        "EMPTY": str(tmp_path / "empty"),
        "BROKEN": str(tmp_path / "broken"),
        "EXISTS": str(exists),
    }
    result = run(*(names.get(a, a) for a in args), status=2)
    assert says in result.stderr
    assert "Traceback" not in result.output
    sentences = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(sentences) == 1
    assert sentences[0].endswith(".")
    assert exists.read_text() == "precious"
    assert result.stdout == ""


def test_bad_sweep_is_refused_before_work(sets, tmp_path):
    run("coverage", *sets, "--sweep", str(tmp_path / "x.doc"), status=2)
    assert not (tmp_path / "cache").exists()


def test_sweep_and_per_structure_tables(sets, tmp_path):
    csv, png, per = (str(tmp_path / n) for n in ("s.csv", "s.png", "p.csv"))
    run("coverage", *sets, "--sweep", csv, "--per-structure", per)
    assert len(pd.read_csv(csv)) == 102
    table = pd.read_csv(per)
    assert len(table) == 13
    assert table.iloc[-1].id == "bad.cif"
    assert table.iloc[-1].reason == "is empty"
    assert set(table.nearest_id[:12]) <= set(read(sets[1]).ids)
    run("coverage", *sets, "--sweep", png)
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_featurize(sets, tmp_path):
    out = tmp_path / "f.npz"
    result = run("featurize", sets[0], "-o", str(out), "--features", "crystalnn,magpie")
    data = np.load(out, allow_pickle=False)
    assert data["crystalnn"].shape == (12, 61)
    assert data["magpie"].shape == (12, 132)
    assert data["ids"].tolist() == list(read(sets[0]).ids)
    assert data["failures"].tolist() == [["bad.cif", "is empty"]]
    assert "bad.cif" in result.stderr


def test_energy_table_has_every_structure(sets):
    table = pd.read_csv(io.StringIO(run("energy", sets[0]).stdout))
    assert list(table.columns) == ["id", "formation_energy_per_atom", "reason"]
    assert len(table) == 13
    failed = table[table.id == "bad.cif"].iloc[0]
    assert failed.reason == "is empty"
    assert np.isnan(failed.formation_energy_per_atom)
    assert table.formation_energy_per_atom.notna().sum() == 12


def test_fad_by_size_and_by_folder(tmp_path):
    crystals = random_crystals(60, 3)
    for name in ("step-2", "step-10"):
        write(crystals[:30], tmp_path / "runs" / name)
    write(crystals, tmp_path / "ref.npz")
    ref = str(tmp_path / "ref.npz")
    run("fad", ref, ref, "--by-size", str(tmp_path / "size"))
    table = pd.read_csv(tmp_path / "size.csv")
    assert table.structures.iloc[-1] == 60
    assert table.FAD.iloc[-1] < 1e-6 < table.FAD.iloc[0]
    run("fad", str(tmp_path / "runs"), ref, "--by-folder", str(tmp_path / "steps"))
    table = pd.read_csv(tmp_path / "steps.csv")
    assert table.folder.tolist() == ["step-2", "step-10"]
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")
    run("fad", ref, ref, "--by-size", str(tmp_path / "size"), status=2)


def test_cache_commands(sets, tmp_path):
    run("diversity", sets[0])
    assert "crystalnn" in run("cache", "info").stdout
    run("cache", "clear")
    assert "crystalnn" not in run("cache", "info").stdout
    other = str(tmp_path / "other")
    run("diversity", sets[0], "--cache", other)
    assert "12 structures" in run("cache", "info", "--cache", other).stdout
    run("diversity", sets[0], "--cache", "off")
    assert "crystalnn" not in run("cache", "info").stdout


def test_convert_names_what_is_lost(sets, tmp_path):
    result = run("convert", sets[0], str(tmp_path / "out.npz"))
    assert "not converted: bad.cif: is empty" in result.stderr
    again = read(tmp_path / "out.npz")
    assert len(again) == 12
    assert again.failures[0].file == "bad.cif"
    write(rocksalt(), tmp_path / "salt")
    run("convert", str(tmp_path / "salt"), str(tmp_path / "sym"), "--symmetrize")
    text = (tmp_path / "sym" / "NaCl.cif").read_text()
    assert "Fm-3m" in text
    assert len(read(tmp_path / "sym")) == 1


def test_demo(tmp_path):
    folder = tmp_path / "demo"
    result = run("demo", "-o", str(folder))
    assert str(folder) in result.stdout
    document = json.loads((folder / "metrics.json").read_text())
    assert document["inputs"]["gen"] == document["inputs"]["gen"] | {"read": 97, "failed": 4}
    assert document["inputs"]["gen"]["path"] == str(folder / "generated")
    assert read(folder / "generated").sha256() == document["inputs"]["gen"]["sha256"]
    assert document["metrics"]["struct_validity"]["value"] == pytest.approx(96 / 101)
    run("demo", "-o", str(folder), status=2)
    run("demo", "-o", str(folder), "--overwrite")


def test_examples_are_readable(tmp_path):
    gen, ref = examples.unpack(tmp_path)
    assert len(read(ref)) == 120
    assert len(read(gen)) == 97
