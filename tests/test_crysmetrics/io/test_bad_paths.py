"""Bad files, folders and paths: named failures, or one clear sentence."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_input import GOOD, reason_beside_good, sentence
from users import as_nobody

from crysmetrics.io import limits, read, sources, write
from crysmetrics.io.loading import load

# --- files and folders -----------------------------------------------------------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_files_and_folders_without_permission(open_folder):
    for name in ("good", "bad", "locked/inner"):
        file = open_folder / f"{name}.cif"
        file.parent.mkdir(exist_ok=True)
        file.write_text(GOOD)
    batch = read(open_folder)  # imports everything while that is still allowed
    write(batch, open_folder / "x.npz")
    write(batch, open_folder / "x.zip")
    (open_folder / "x.csv").write_text(f'cif\n"{GOOD}"\n')
    read(open_folder / "x.csv")
    locked = ["bad.cif", "locked", "x.npz", "x.zip", "x.csv"]
    for name in locked:
        (open_folder / name).chmod(0)
    with as_nobody():
        crystals = read(open_folder)
        assert crystals.ids == ("good",)
        why = "can't be read (Permission denied)"
        assert crystals.failures == (("bad.cif", why), ("locked", why))
        for name in locked:
            text = sentence(open_folder / name)
            assert text.startswith(f"{open_folder / name} can't be read")
            assert "Permission denied" in text
        assert "Permission denied" in sentence(open_folder / "locked" / "inner.cif")
    (open_folder / "locked").chmod(0o755)


def test_broken_links(tmp_path):
    (tmp_path / "bad.cif").symlink_to("nowhere.cif")
    assert reason_beside_good(tmp_path, "bad.cif") == "is a broken link"
    assert "bad.cif is a broken link." in sentence(tmp_path / "bad.cif")


def test_broken_link_without_suffix(tmp_path):
    (tmp_path / "bad").symlink_to("nowhere")
    assert "is a broken link" in reason_beside_good(tmp_path, "bad")


def test_looping_links(tmp_path):
    (tmp_path / "bad.cif").symlink_to("bad.cif")
    assert reason_beside_good(tmp_path, "bad.cif") == "is a link that leads back to itself"
    assert "is a link that leads back to itself." in sentence(tmp_path / "bad.cif")


def test_looping_folders(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "loop").symlink_to("..", target_is_directory=True)
    reason = reason_beside_good(tmp_path, "deep/loop")
    assert reason == "is a link that leads back to a folder above it"


def test_folders_linked_to_each_other(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / one).mkdir()
        (tmp_path / one / "x.cif").write_text(GOOD)
        (tmp_path / one / "other").symlink_to(f"../{other}", target_is_directory=True)
    crystals = read(tmp_path)
    assert crystals.ids == ("a/other/x", "a/x", "b/other/x", "b/x")
    assert [f.file for f in crystals.failures] == ["a/other/other", "b/other/other"]


def test_pipes(tmp_path):
    os.mkfifo(tmp_path / "bad.cif")
    assert reason_beside_good(tmp_path, "bad.cif") == "is not a regular file"
    for name in ("x.cif", "x.csv", "x.zip", "x.npz", "x"):
        os.mkfifo(tmp_path / name)
        assert "is neither a file nor a folder" in sentence(tmp_path / name)


def test_file_that_vanishes_while_reading(tmp_path):
    (tmp_path / "bad.cif").write_text(GOOD)
    source = sources.folder_source(tmp_path)
    (tmp_path / "bad.cif").unlink()
    (entry,) = source.entries
    with pytest.raises(ValueError, match="does not exist"):
        load(entry)


def test_files_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 2000)
    monkeypatch.setattr(limits, "MAX_PLAIN_BYTES", 2000)
    (tmp_path / "bad.cif").write_text(GOOD + " " * 2000)
    assert "is too large" in reason_beside_good(tmp_path, "bad.cif")
    assert len(read(tmp_path / "bad.cif")) == 1  # alone it may be larger
    (tmp_path / "bad.cif").write_bytes(gzip.compress(GOOD.encode() + b" " * 2000))
    assert "unpacks to more than" in reason_beside_good(tmp_path, "bad.cif")


# --- paths that can't be used at all ---------------------------------------------------------


def test_paths_that_can_not_be_used(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "README.md").write_text("x")
    (tmp_path / "x.pdf").write_bytes(b"%PDF-1.4")
    assert sentence(tmp_path / "none.cif") == f"{tmp_path}/none.cif does not exist."
    assert sentence(tmp_path / "empty") == f"{tmp_path}/empty is empty."
    assert "only other ones such as README.md" in sentence(tmp_path / "only")
    assert "has no known format" in sentence(tmp_path / "x.pdf")
    assert "(Not a directory)" in sentence(tmp_path / "x.pdf" / "y.cif")
    assert "An empty name" in sentence("")
    assert "no name that a file can have" in sentence("a\0b")
    assert "can't be read (File name too long)" in sentence("x" * 300)


def test_every_entry_fails(tmp_path):
    for k in range(3):
        (tmp_path / f"{k}.cif").write_text("")
    (tmp_path / "0\n.cif").write_text("")
    assert "None of the 4 structures" in sentence(tmp_path)
    (tmp_path / "0\n.cif").unlink()
    text = sentence(tmp_path)
    assert text == f"None of the 3 structures of {tmp_path} can be read; 0.cif is empty."
    (tmp_path / "1.cif").unlink()
    (tmp_path / "2.cif").unlink()
    assert sentence(tmp_path) == f"{tmp_path}: 0.cif is empty."
    assert sentence(tmp_path / "0.cif") == f"{tmp_path}/0.cif is empty."
