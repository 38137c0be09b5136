"""The GitHub Action's own script passes on equal results, and fails on spoiled ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from places import ROOT
from ruamel.yaml import YAML

from crysmetrics.examples import unpack
from crysmetrics.io import read, write


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a sound set, a spoiled one and their reference, and `crysmetrics` to call."""
    folder = tmp_path_factory.mktemp("action")
    gen, _ = unpack(folder)
    crystals = read(gen, workers=1)
    rng = np.random.default_rng(0)
    frac = crystals.frac_coords + rng.normal(0, 0.15, crystals.frac_coords.shape)
    spoiled = type(crystals)(
        crystals.atomic_numbers, frac, crystals.lattices, crystals.num_atoms, crystals.ids
    )
    write(spoiled, folder / "spoiled")
    (folder / "bin").mkdir()
    program = folder / "bin" / "crysmetrics"
    code = "from crysmetrics.entry import main; main()"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
    program.chmod(0o755)
    return folder


def gate(place, status, **variables):
    """Run the script; returns what stands in the summary."""
    summary = place / "summary.md"
    summary.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "REFERENCE": "reference",
        "ARGUMENTS": "--metrics struct_validity,coverage,emd_density --workers 1 --quiet",
        "GITHUB_STEP_SUMMARY": str(summary),
        "CRYSMETRICS_CACHE": str(place / "cache"),
        **variables,
    }
    command = ["bash", str(ROOT / "gate.sh")]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return summary.read_text() if summary.exists() else done.stderr


def test_a_first_run_a_good_one_and_a_spoiled_one(place):
    first = gate(place, 0, SAMPLES="generated", OUTPUT="baseline")
    assert "COV-R" in first
    assert (place / "baseline" / "report.html").exists()
    good = gate(place, 0, SAMPLES="generated", BASELINE="baseline", OUTPUT="good")
    assert "No metric failed" in good
    spoiled = gate(place, 1, SAMPLES="spoiled", BASELINE="baseline", OUTPUT="worse")
    assert re.search(r"amsd_precision.*(worse|fail)", spoiled, re.IGNORECASE)
    (place / "gate.toml").write_text('metrics = ["emd_density"]\n')
    same = {"SAMPLES": "spoiled", "BASELINE": "baseline", "OUTPUT": "worse"}
    assert "emd_density" in gate(place, 0, **same, CONFIG="gate.toml")


def test_unusable_input_is_status_two(place):
    assert "does not exist" in gate(place, 2, SAMPLES="nowhere")


def test_the_action_hands_its_inputs_to_the_script():
    action = YAML(typ="safe").load(ROOT / "action.yml")
    assert action["runs"]["using"] == "composite"
    (step,) = (s for s in action["runs"]["steps"] if "gate.sh" in s.get("run", ""))
    script = (ROOT / "gate.sh").read_text()
    given = {name: value for name, value in step["env"].items() if name != "CRYSMETRICS_CACHE"}
    for name, value in given.items():
        assert f"{name}" in script
        assert value == f"${{{{ inputs.{name.lower()} }}}}"
        assert name.lower() in action["inputs"]


def test_the_cache_of_the_action_follows_the_constraints(tmp_path):
    steps = YAML(typ="safe").load(ROOT / "action.yml")["runs"]["steps"]
    (step,) = (s for s in steps if s.get("id") == "cache")
    found = []
    for text in ("numpy==1\n", "numpy==1\n", "numpy==2\n"):
        (tmp_path / "constraints.txt").write_text(text)
        output = tmp_path / "output"
        output.write_text("")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {
            **os.environ,
            "PATH": path,
            "GITHUB_OUTPUT": str(output),
            "GITHUB_ACTION_PATH": f"{tmp_path}/./",
        }
        subprocess.run(["bash", "-ec", step["run"]], env=environment, check=True)
        found.append(dict(line.split("=", 1) for line in output.read_text().splitlines()))
    assert found[0] == found[1] != found[2]
    assert all(len(outputs["constraints"]) == 16 for outputs in found)
    (cache,) = (s for s in steps if s.get("uses", "").startswith("actions/cache@"))
    for name in found[0]:
        assert f"steps.cache.outputs.{name}" in str(cache["with"])
    # Neither sees the files of an action that is fetched from elsewhere.
    text = (ROOT / "action.yml").read_text()
    assert "hashFiles(" not in text
    assert "cache-dependency-path" not in text


def test_the_action_is_documented_as_it_is():
    inputs = YAML(typ="safe").load(ROOT / "action.yml")["inputs"]
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \|(.*?)\|", text, re.MULTILINE))
    assert set(rows) == set(inputs)
    for name, declared in inputs.items():
        assert rows[name].strip().strip("`") == declared.get("default", "")
