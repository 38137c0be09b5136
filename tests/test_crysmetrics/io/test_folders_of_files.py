"""Folders and archives: which files are read, under which ids."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import Path

import pytest
from structure_files import cif, folder_of, tar_of, zip_of

from crysmetrics.errors import InputError
from crysmetrics.io import read

FILES = {
    "b.cif": cif(),
    "a.CIF": cif(),
    "deep/er/c.cif": cif(),
    "deep/bad.cif": "<html>",
    "deep/POSCAR_1": "Na Cl\n1\n4 0 0\n0 4 0\n0 0 4\nNa Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n",
    "README.md": "not a structure",
    ".DS_Store": "junk",
    "__MACOSX/._b.cif": "junk",
    "__MACOSX/b.cif": "junk",
}
IDS = ("a", "b", "deep/POSCAR_1", "deep/er/c")


def test_folder(tmp_path):
    crystals = read(folder_of(tmp_path / "set", FILES))
    assert crystals.ids == IDS
    assert [f.file for f in crystals.failures] == ["deep/bad.cif"]


@pytest.mark.parametrize("wrapped", ["", "set/", "./", "./some/where/"])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz", "ZIP"])
def test_archives_equal_their_folder(tmp_path, kind, wrapped):
    folder = read(folder_of(tmp_path / "set", FILES))
    files = {wrapped + name: text for name, text in FILES.items()}
    path = tmp_path / f"archive.{kind}"
    if "tar" in kind or kind == "tgz":
        mode = {"tar.gz": "w:gz", "tgz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
        archive = read(tar_of(path, files, mode.get(kind, "w")))
    else:
        archive = read(zip_of(path, files))
    assert archive.ids == folder.ids
    assert archive.sha256() == folder.sha256()
    assert len(archive.failures) == len(folder.failures)


def test_zip_of_old_windows_tools(tmp_path):
    path = zip_of(tmp_path / "x.zip", {"set/x/b.cif": cif(), "set/y/a.cif": cif()})
    # zipfile itself writes no backslashes, so they are put in afterwards.
    path.write_bytes(path.read_bytes().replace(b"set/x/b", b"set\\x\\b"))
    assert read(path).ids == ("x/b", "y/a")


def test_folder_of_links(tmp_path):
    folder_of(tmp_path / "real", {"a.cif": cif()})
    (tmp_path / "set").mkdir()
    (tmp_path / "set/file.cif").symlink_to("../real/a.cif")
    (tmp_path / "set/folder").symlink_to("../real", target_is_directory=True)
    crystals = read(tmp_path / "set")
    assert crystals.ids == ("file", "folder/a")
    assert not crystals.failures
    (tmp_path / "link").symlink_to("set")
    assert read(tmp_path / "link").sha256() == crystals.sha256()


def test_folder_named_like_a_file(tmp_path):
    for name in ("x.npz", "x.zip", "x.csv", "x.cif"):
        assert read(folder_of(tmp_path / name, {"a.cif": cif()})).ids == ("a",)


def test_very_deep_folder(tmp_path):
    deep = "/".join(["d"] * 1200)
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(1200):
            os.mkdir("d", dir_fd=here)
            inner = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
        file = os.open("x.cif", os.O_CREAT | os.O_WRONLY, dir_fd=here)
        os.write(file, cif().encode())
        os.close(file)
    finally:
        os.close(here)
    (tmp_path / "b.cif").write_text(cif())
    assert read(tmp_path).ids == ("b", f"{deep}/x")
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # shutil's own recursion ends


def test_files_that_differ_in_their_suffix_alone(tmp_path):
    files = {"a.cif": cif(), "a.vasp": FILES["deep/POSCAR_1"], "b.c.cif": cif()}
    assert read(folder_of(tmp_path, files)).ids == ("a.cif", "a.vasp", "b.c")


def test_compressed_files_in_a_folder(tmp_path):
    (tmp_path / "a.cif.gz").write_bytes(gzip.compress(cif().encode()))
    (tmp_path / "b.CIF.GZ").write_bytes(gzip.compress(cif().encode()))
    assert read(tmp_path).ids == ("a", "b")
    assert read(tmp_path / "a.cif.gz").ids == ("a",)


def test_what_stands_beside_samples_is_not_worth_a_word(tmp_path, caplog):
    caplog.set_level("INFO", logger="crysmetrics")
    folder = folder_of(tmp_path / "x", {"a.cif": cif()})
    for name in ("samples.csv", "request.json", "optimized.csv"):
        (folder / name).write_text("{}")
    assert read(folder).ids == ("a",)
    assert not caplog.messages
    (folder / "notes.txt").write_text("")
    read(folder)
    assert "1 file(s) of other kinds are not read (notes.txt)" in caplog.messages[0]
    (folder / "a.cif").unlink()
    with pytest.raises(InputError, match="only other ones such as notes"):
        read(folder)
    (folder / "notes.txt").unlink()
    with pytest.raises(InputError, match="only other ones such as optimized"):
        read(folder)


def test_names_in_other_alphabets(tmp_path):
    folder_of(tmp_path, {"Ångström.cif": cif(), "塩.cif": cif()})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.cif")).write_text(cif())
    crystals = read(tmp_path)
    assert crystals.ids == (r"\udcff", "Ångström", "塩")
    assert " ".join(crystals.ids).encode()


def test_relative_paths(tmp_path, monkeypatch):
    folder_of(tmp_path, {"set/a.cif": cif(), "b.cif": cif()})
    monkeypatch.chdir(tmp_path)
    assert read(".").ids == ("b", "set/a")
    assert read("set").ids == read("./set/").ids == read("set/../set").ids == ("a",)
