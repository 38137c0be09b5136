"""Results that do not depend on what happens around a process: kills, company, locale, order."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import CRYSMETRICS, start
from sets import random_crystals

from crysmetrics.io import write

METRICS = "struct_validity,emd_density,emd_num_elements"
EVALUATE = ["evaluate", "gen", "ref.zip", "--metrics", METRICS, "--workers", "1", "--quiet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("same")
    crystals = random_crystals(40)
    write(crystals.with_ids([f"ä{name}" for name in crystals.ids]), path / "gen")
    write(random_crystals(30, seed=1), path / "ref.zip")
    run(path, [*EVALUATE, "-o", "calm"])
    return path


def run(folder: Path, command: list[str], **environment: str) -> None:
    done = subprocess.run(
        [*CRYSMETRICS, *command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def results(folder: Path) -> dict[str, Any]:
    """Everything that an evaluation leaves, but for the time that it took."""
    found = {
        p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".csv", ".md", ".tex")
    }
    document = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert document.pop("timing")
    return {**found, "metrics.json": document}


@pytest.mark.parametrize("kills", [4, pytest.param(25, marks=pytest.mark.slow)])
def test_an_evaluation_killed_at_any_moment_can_be_repeated(folder: Path, kills: int) -> None:
    command = [*CRYSMETRICS, *EVALUATE, "-o", "killed", "--cache", "cache", "--overwrite"]
    begun = time.monotonic()
    run(folder, command[len(CRYSMETRICS) :])
    seconds = time.monotonic() - begun
    for share in np.linspace(0.2, 1.0, kills):
        process = start(command, folder)
        time.sleep(share * seconds)
        process.kill()
        process.communicate()
        assert results(folder / "killed") == results(folder / "calm"), "old or new, and whole"
    run(folder, command[len(CRYSMETRICS) :])
    assert results(folder / "killed") == results(folder / "calm")
    assert not list(folder.rglob(".crysmetrics-*"))


def test_two_runs_share_a_cache(folder: Path) -> None:
    command = ["featurize", "ref.zip", "--features", "magpie", "--workers", "1", "--quiet"]
    run(folder, [*command, "-o", "alone.npz", "--cache", "off"])
    runs = [
        start([*CRYSMETRICS, *command, "-o", f"{k}.npz", "--cache", "shared"], folder)
        for k in range(2)
    ]
    for process in runs:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
    with np.load(folder / "alone.npz", allow_pickle=False) as alone:
        for k in range(2):
            with np.load(folder / f"{k}.npz", allow_pickle=False) as other:
                assert alone.files == other.files
                assert all(np.array_equal(alone[name], other[name]) for name in alone.files)


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "20", "PYTHONHASHSEED": "8"},
        {"LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "7"},
    ],
    ids=["C", "Turkish"],
)
def test_locale_and_surroundings_change_nothing(
    folder: Path, environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    output = f"locale-{request.node.callspec.id}"
    run(folder, [*EVALUATE, "-o", output], **environment)
    assert results(folder / output) == results(folder / "calm")


def test_the_order_of_files_changes_nothing(folder: Path) -> None:
    names = sorted((folder / "gen").iterdir(), reverse=True)
    with zipfile.ZipFile(folder / "gen.zip", "w") as archive:
        for path in names:
            archive.write(path, path.name)
    run(folder, ["gen.zip" if part == "gen" else part for part in EVALUATE] + ["-o", "order"])
    found, expected = results(folder / "order"), results(folder / "calm")
    found["metrics.json"]["inputs"]["gen"]["path"] = "gen"
    for name in ("metrics.json", "metrics.csv", "per_structure.csv"):
        assert found[name] == expected[name]


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    "command",
    [
        [*CRYSMETRICS, *EVALUATE, "-o", "full", "--cache", "off"],
        [*CRYSMETRICS, "convert", "gen", "full.zip"],
        [*CRYSMETRICS, "convert", "gen", "full"],
        [*CRYSMETRICS, "validity", "gen", "--json", "full.json", "--workers", "1"],
    ],
    ids=["evaluate", "archive", "folder", "json"],
)
def test_where_the_disk_is_full_nothing_is_left(folder: Path, command: list[str]) -> None:
    """A limit to the size of files, at which writing fails as on a full disk."""
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        preexec_fn=lambda: limit_files(600),
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("full*"))
    assert not list(folder.glob(".crysmetrics-*"))
