"""Users without a home, and packages in folders that they can't write."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sets import random_crystals
from users import NOBODY, as_nobody, run_as_nobody

import crysmetrics
from crysmetrics import folders
from crysmetrics.io import write

ROOT = Path(crysmetrics.__file__).parents[1]
CRYSMETRICS = [sys.executable, "-c", "from crysmetrics.cli import main; main()"]
CRYSGEN = [sys.executable, "-c", "from crysgen.cli import main; main()"]


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """A shared installation: packages that their users can't write, and nothing compiled."""
    # pytest's own folders are closed to others.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        top = Path(name)
        top.chmod(0o755)
        for package in ("crysmetrics", "crysgen"):
            shutil.copytree(
                ROOT / package, top / "packages" / package, ignore=shutil.ignore_patterns("*.nb?")
            )
        write(random_crystals(6), top / "set.zip")
        (top / "tmp").mkdir()
        (top / "tmp").chmod(0o777)
        (top / "work").mkdir()
        (top / "work").chmod(0o777)
        if os.geteuid() != 0:
            _set_writable(top / "packages", False)
        yield top
        _set_writable(top / "packages", True)


def _set_writable(folder: Path, allowed: bool) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755 if allowed else 0o555)


def _run(installed: Path, command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(installed / "packages"),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(installed / "tmp"),
        **more,
    }
    if os.geteuid() != 0:
        environment["HOME"] = "/nonexistent"  # what it is to nobody
    return run_as_nobody(command, cwd=installed / "work", env=environment)


def test_crysmetrics_runs_without_a_home_or_a_folder_of_its_own(installed: Path) -> None:
    command = [*CRYSMETRICS, "validity", str(installed / "set.zip"), "--workers", "1"]
    done = _run(installed, command)
    assert (done.returncode, done.stderr) == (0, "")
    assert "struct_validity" in done.stdout
    compiled = list((installed / "tmp").glob("crysmetrics-*/numba/**/*.nbi"))
    assert compiled, "compiled code is kept for the next run"
    before = {path: path.stat().st_mtime_ns for path in compiled}
    again = _run(installed, command)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert {path: path.stat().st_mtime_ns for path in compiled} == before, "and is used by it"
    assert list((installed / "work").iterdir()) == []  # no folder named "~"


def test_features_are_kept_without_a_home(installed: Path) -> None:
    code = (
        "from crysmetrics.features.cache import open_cache; import numpy as np\n"
        "cache = open_cache(); print(cache.path)"
    )
    done = _run(installed, [sys.executable, "-c", code])
    assert done.stdout.startswith(str(installed / "tmp")), done.stderr


def test_figures_are_drawn_without_a_home(installed: Path) -> None:
    code = (
        "from crysmetrics.folders import prepare_environment; prepare_environment()\n"
        "import matplotlib; print(matplotlib.get_cachedir(), matplotlib.get_configdir())"
    )
    done = _run(installed, [sys.executable, "-c", code])
    assert (done.returncode, done.stderr) == (0, "")
    assert all(path.startswith(str(installed / "tmp")) for path in done.stdout.split())


def test_kernels_run_where_nothing_can_be_kept(installed: Path) -> None:
    """No home, and another's folder where the private one would be: compiled in every run."""
    taken = installed / "taken"
    taken.mkdir()
    (taken / f"crysmetrics-{NOBODY if os.geteuid() == 0 else os.geteuid()}").mkdir(mode=0o777)
    for path in (taken, *taken.iterdir()):
        path.chmod(0o777)
    code = "import numpy as np; from crysmetrics.geometry import reduce_cell as f; f(np.eye(3))"
    done = _run(installed, [sys.executable, "-c", code], TMPDIR=str(taken))
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(taken.glob("**/*.nb?")), "nothing is read from a folder that others may write"


def test_crysgen_samples_without_a_home_or_a_folder_of_its_own(installed: Path) -> None:
    options = ["--composition", "NaCl", "-n", "1", "--formula-units", "1", "--quiet"]
    command = [*CRYSGEN, "sample", *options, "--method", "retrieval", "-o", "out"]
    done = _run(installed, command)
    assert (done.returncode, done.stderr) == (0, "")
    assert (installed / "work/out/samples.csv").is_file()


@pytest.mark.parametrize(
    "command",
    [
        [*CRYSGEN, "library", "add", "set.zip"],
        [*CRYSMETRICS, "reference", "build", "mine", "set.zip", "--features", "magpie"],
    ],
    ids=["library", "reference"],
)
def test_what_must_last_is_refused_in_a_sentence_without_a_home(
    installed: Path, command: list[str]
) -> None:
    command = [str(installed / part) if part == "set.zip" else part for part in command]
    done = _run(installed, command)
    assert done.returncode == 2
    assert "/nonexistent/" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (installed / "work/~").exists()


def test_unknown_users_have_no_folder_named_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a user whom the system doesn't know `~` has no meaning."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: f"~/.cache/{name}")
    monkeypatch.setattr("platformdirs.user_data_dir", lambda name: f"~/.local/share/{name}")
    assert folders.data_folder("x") == Path("/nonexistent/.local/share/x")
    with as_nobody():
        assert folders.cache_folder("x").is_absolute()


def test_the_private_folder_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    private = folders.private_folder()
    assert private is not None
    assert private.parent == tmp_path
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    private.rmdir()
    (tmp_path / "elsewhere").mkdir()
    private.symlink_to(tmp_path / "elsewhere")
    assert folders.private_folder() is None
