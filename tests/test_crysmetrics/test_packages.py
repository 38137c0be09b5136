"""What works without the optional packages, and the sentence that names them where it does not."""

import configparser
import json
import os
import re
import subprocess
import sys

import pytest
from places import ROOT

from crysmetrics.errors import MissingPackageError
from crysmetrics.examples import unpack
from crysmetrics.packages import EXTRAS, how_to_install, require


def test_extras_are_those_of_setup_cfg():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    declared = config["options.extras_require"]
    for extra, packages in EXTRAS.items():
        names = {
            re.split(r"[<>=;! ]", line)[0] for line in declared[extra].split("\n") if line.strip()
        }
        assert names == {re.split(r"[<>=]", package)[0] for package in packages}


def test_no_hint_names_a_package_that_is_on_no_index():
    texts = [*ROOT.glob("crys*/**/*.py"), ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    wrong = [
        path
        for path in texts
        if path.name != "packages.py"
        and re.search(r"pip install\s+'?crysmetrics\[", path.read_text())
    ]
    assert wrong == []


def test_a_missing_package_is_a_sentence_with_a_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match=r"^FAD needs PyTorch: pip install torch\.$"):
        require("torch", "torch", "FAD")
    assert how_to_install("relax") == "pip install chgnet dftd3 torch"


HIDES_TORCH = """
from importlib.machinery import PathFinder

seen = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] == "torch" else seen(name, path, target)

PathFinder.find_spec = staticmethod(find_spec)
"""
"""Of every process that is started, as `sitecustomize`."""


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory):
    """A folder with the examples, and a way to run commands where PyTorch can't be imported."""
    place = tmp_path_factory.mktemp("place")
    unpack(place)
    (place / "without").mkdir()
    (place / "without" / "sitecustomize.py").write_text(HIDES_TORCH)
    paths = [str(place / "without"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "CRYSMETRICS_CACHE": str(place / "cache"),
    }

    def run(module: str, *args: str) -> subprocess.CompletedProcess[str]:
        code = f"from {module}.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *args],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
        )

    return place, run


def test_metrics_without_networks_need_no_pytorch(without_torch):
    place, run = without_torch
    args = ("--quiet", "--workers", "1", "-o", "results", "--overwrite")
    done = run("crysmetrics", "evaluate", "generated", "reference", *args)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((place / "results" / "metrics.json").read_text())["metrics"]
    for key in ("validity", "emd_density", "emd_num_elements", "cov_recall", "struct_diversity"):
        assert metrics[key]["value"] is not None
    for key in ("fad", "emd_energy", "fd_cgcnn"):
        assert metrics[key]["value"] is None
        assert "needs PyTorch" in metrics[key]["reason"]


def test_earth_movers_distances_leave_out_energies(without_torch):
    _, run = without_torch
    done = run("crysmetrics", "emd", "generated", "reference", "--quiet", "--json", "-")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    assert metrics["emd_density"]["value"] > 0
    assert "needs PyTorch" in metrics["emd_energy"]["reason"]
    done = run("crysmetrics", "emd", "generated", "reference", "--property", "energy")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "args",
    [
        ("crysmetrics", "fad", "generated", "reference"),
        ("crysmetrics", "energy", "generated", "-o", "energies.csv"),
        ("crysgen", "sample", "--composition", "Li2O", "-n", "2", "-o", "never"),
        ("crysgen", "noise", "reference", "--step", "5", "-o", "never"),
        ("crysgen", "train", "gemsdiff", "--data", "reference", "-o", "never"),
    ],
    ids=lambda args: args[1],
)
def test_networks_without_pytorch_are_one_sentence(without_torch, args):
    place, run = without_torch
    done = run(*args)
    assert done.returncode == 2
    assert "PyTorch: pip install" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "never").exists()
