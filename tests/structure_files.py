"""Files, folders and archives of rock salt that several test modules write."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from sets import rocksalt

from crysmetrics.io import Crystals
from crysmetrics.io.formats.cif import p1_cif


def cif(name: str = "NaCl", a: float = 5.64) -> str:
    return p1_cif(rocksalt(a, name))


def assert_rocksalt(crystals: Crystals) -> None:
    for crystal in crystals:
        assert sorted(crystal.atomic_numbers) == [11, 17]
        assert crystal.volumes == pytest.approx(5.64**3 / 4)


def tar_of(path: Path, files: dict[str, str], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def zip_of(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def folder_of(path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path
