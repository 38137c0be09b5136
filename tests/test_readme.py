"""Every command of the README runs as it stands, on small sets under the names that it uses."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import metric_table
import numpy as np
import pytest
from click.testing import CliRunner
from places import ROOT

import crysmetrics
from crysgen.columns import COLUMNS
from crysmetrics.examples import unpack
from crysmetrics.io import Crystals, read, write

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SMALLER = {
    "-n 8": "-n 2",
    "-n 4 --format": "-n 2 --format",
    "--model run/ --composition NaCl -n 4": "--model run/ --composition NaCl -n 1 --steps 2",
    "--max-compositions 50": "--max-compositions 2",
    "--step 0,10,50,100": "--step 0,10",
    "-o explored/ --minutes 10": "-o explored/ --minutes 0.02 --max-atoms 4 -n 1",
    "--data structures/ --minutes 60": "--data structures/ --steps 2 --batch-atoms 40",
    "--method diffusion": "--method diffusion --steps 2",
    "--subset valid:50": "--subset valid:2",
}
"""What takes long -> the same in small."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def commands() -> Iterator[str]:
    for block in blocks("console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                yield line[2:].partition(" #")[0].strip()


COMMANDS = list(commands())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with every set that the README names, a few small structures each."""
    folder = tmp_path_factory.mktemp("readme")
    _, ref = unpack(folder / "examples")
    crystals = read(ref, workers=1)
    small = crystals[np.flatnonzero(crystals.num_atoms <= 4)[:12]]
    moved = replace(small, lattices=small.lattices * 1.01)
    sets: dict[str, Crystals] = {
        "generated": moved[:4],
        "reference": small[:6],
        "predictions": moved[:6],
        "train": small[2:8],
        "test": small[:4],
        "structures": small,
        "my_crystals": small[:2].with_ids(["mine-1", "mine-2"]),
        "runs/a": moved[:4].with_ids([f"a{i}" for i in range(4)]),
        "runs/b": moved[4:8].with_ids([f"b{i}" for i in range(4)]),
    }
    for name, found in sets.items():
        write(found, folder / name)
    (folder / "generated" / "empty.cif").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        # A user's own reference goes before the shipped one of 7,118 structures.
        patch.setenv("CRYSMETRICS_REFERENCES", str(folder / "references"))
        run(f"crysmetrics reference build mp20-test-bt {folder}/reference --features crystalnn")
    return folder


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("CRYSMETRICS_CACHE", str(place / "cache"))
    # What users add of their own must not get into the home of whoever runs the tests.
    monkeypatch.setenv("CRYSGEN_LIBRARY", str(place / "own-library.npz"))
    monkeypatch.setenv("CRYSMETRICS_REFERENCES", str(place / "references"))


def run(command: str) -> str:
    from crysgen.cli import main as crysgen
    from crysmetrics.cli import main

    for long, short in SMALLER.items():
        command = command.replace(long, short)
    program, *args = shlex.split(command)
    result = CliRunner().invoke({"crysgen": crysgen, "crysmetrics": main}[program], args)
    assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception!r}"
    return result.stdout


def test_what_is_made_smaller_is_in_the_readme():
    for long in SMALLER:
        assert any(long in command for command in COMMANDS), long


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("make")])
def test_command(command):
    run(command)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_knows_its_targets(command):
    done = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", blocks("python"), ids=["crysgen", "crysmetrics"])
def test_python(block, monkeypatch):
    import crysgen

    small = crysgen.Resources(workers=1)
    quick = crysgen.SamplingSettings(method="retrieval", energies=False)
    generate = crysgen.generate
    monkeypatch.setattr(
        "crysgen.generate",
        lambda text, count: generate(text, 2, settings=quick, resources=small),
        raising=False,
    )
    names = {"list_of_pymatgen_structures": crysmetrics.read("reference/").to_pymatgen()}
    exec(compile(block, "README.md", "exec"), names)


def test_columns_of_samples_are_those_that_the_program_names():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|$", TEXT, re.MULTILINE))
    assert {name: rows.get(name) for name in COLUMNS} == COLUMNS


def test_metrics_are_defined_as_the_program_defines_them():
    assert metric_table.between(metric_table.PAGE.read_text(encoding="utf-8")) == (
        metric_table.table()
    ), "write it anew: python tests/metric_table.py"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *sorted(
    str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))])  # fmt: skip
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target
