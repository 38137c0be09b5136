"""The built wheel holds every file of data that the source tree holds."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import ROOT

PACKAGES = ("crysmetrics", "crysgen")
IGNORED = {".pyc", ".nbi", ".nbc"}


def data_files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for package in PACKAGES
        for path in (folder / package).rglob("*")
        if path.is_file() and path.suffix not in IGNORED and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    place = tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, place / package, ignore=ignored)
    code = "from setuptools.build_meta import build_wheel; print(build_wheel('dist'))"
    # The build must see this tree alone.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(place / "dist" / done.stdout.split()[-1])


def test_every_file_of_the_packages_is_in_the_wheel(wheel):
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == data_files(ROOT)


def test_models_and_libraries_are_among_them(wheel):
    suffixes = [Path(name).suffix for name in wheel.namelist()]
    assert suffixes.count(".safetensors") >= 2
    assert suffixes.count(".npz") >= 2


def test_commands_are_declared(wheel):
    name = next(n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    declared = wheel.read(name).decode()
    assert "crysmetrics = crysmetrics.entry:main" in declared
    assert "crysgen = crysgen.entry:main" in declared
