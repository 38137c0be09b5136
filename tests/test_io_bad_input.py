"""Bad input: each ends as a named failure or one clear sentence, never in a traceback."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from sets import random_crystals, rocksalt
from users import as_nobody

from crysmetrics.errors import InputError
from crysmetrics.io import MAX_ATOMS, Crystals, read, reading, sources, write
from crysmetrics.io.writing import p1_cif

GOOD = p1_cif(rocksalt())
no_thread_dies = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


def reason_beside_good(folder: Path, name: str) -> str:
    """The reason for the one failure of a folder that also holds one good file."""
    (folder / "good.cif").write_text(GOOD)
    crystals = read(folder)
    assert crystals.ids == ("good",)
    ((file, reason),) = crystals.failures
    assert file == name
    assert "\n" not in reason
    assert not reason.endswith(".")
    return reason


def sentence(path: Path | str, **options: object) -> str:
    """What `read` has to say about something that can't be used at all."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 500
    return text


# --- contents of a file ----------------------------------------------------------------------

SYMMETRIC = """\
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
'-x, -y, -z'
"""


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def with_length(value: str) -> str:
    (line,) = (line for line in GOOD.split("\n") if line.startswith("_cell_length_a"))
    return GOOD.replace(line, f"_cell_length_a {value}")


CONTENTS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is empty"),
    "blank": (" \n\n\t", "is empty"),
    "blank with mark": (b"\xef\xbb\xbf\n", "is empty"),
    "truncated in a row": (GOOD[:-20], "can't be read as CIF (line "),
    "truncated between rows": (
        GOOD[: GOOD.index("  Cl")],
        "has 1 atoms where its formula states 2",
    ),
    "truncated before the sites": (GOOD[: GOOD.index("loop_")], "holds no atom sites"),
    "truncated head": (GOOD[:10], "holds no atom sites"),
    "no sites": (GOOD[: GOOD.index("  Na")], "holds no atom sites"),
    "HTML": ("<!DOCTYPE html>\n<html><body>404</body></html>", "is an HTML or XML page"),
    "HTML after blanks": ("\n\n  <html>", "is an HTML or XML page"),
    "XML": ('<?xml version="1.0"?>', "is an HTML or XML page"),
    "NaN position": (changed("0.5000000000  0.5", "nan  0.5"), "position that is not a finite"),
    "infinite position": (
        changed("0.5000000000  0.5", "inf  0.5"),
        "position that is not a finite",
    ),
    "huge position": (changed("0.5000000000  0.5", "1e999  0.5"), "position that is not a finite"),
    "NaN cell": (with_length("nan"), "has a cell that is not finite"),
    "infinite cell": (with_length("1e400"), "has a cell that is not finite"),
    "zero length": (with_length("0.0"), "has a cell length that is not positive (0 Å)"),
    "negative length": (with_length("-4"), "has a cell length that is not positive (-4 Å)"),
    "tiny volume": (with_length("1e-9"), "has a cell of (almost) no volume"),
    "huge volume": (with_length("1e308"), "has a cell too large for floating-point"),
    "unknown element": (changed("  Na  Na0", "  Zz  Zz0"), "holds an unknown element 'Zz'"),
    "disordered": (changed("0.5000000000  1", "0.5000000000  0.5"), "is disordered: a site Cl"),
    "two structures in place of one": (
        GOOD.replace("loop_", SYMMETRIC + "loop_", 1).replace("0.5000000000", "0.0000000000"),
        "",
    ),
    "UTF-16": (GOOD.encode("utf-16"), "is not text: byte 0xff at 0 is not UTF-8"),
    "latin-1": (b"# \xc5ngstr\xf6m\n" + GOOD.encode(), "is not text: byte 0xc5 at 2 is not UTF-8"),
    "binary": (bytes(range(32)) * 20, "is a binary file, not text"),
    "noise": (np.random.default_rng(0).bytes(1000), "is not text"),
    "prose": ("The structure of rock salt is well known.", "can't be read as CIF (line 1"),
    "damaged gzip": (gzip.compress(GOOD.encode())[:-30], "is a damaged gzip file"),
    "gzip with a wrong sum": (
        gzip.compress(GOOD.encode())[:-8] + bytes(8),
        "is a damaged gzip file",
    ),
    "gzip of noise": (b"\x1f\x8b" + bytes(100), "is a damaged gzip file"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_bad_contents(tmp_path, kind):
    content, wanted = CONTENTS[kind]
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "bad.cif").write_bytes(data)
    assert wanted in sentence(tmp_path / "bad.cif")
    assert wanted in sentence(tmp_path)
    reason = reason_beside_good(tmp_path, "bad.cif")
    assert wanted in reason
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("bad.cif", data)
        archive.writestr("good.cif", GOOD)
    assert read(tmp_path / "x.zip").failures == (("bad.cif", reason),)


@pytest.mark.parametrize("name", ["x.vasp", "x.xyz", "x.json"])
@pytest.mark.parametrize("kind", ["empty", "blank", "HTML", "binary", "noise", "prose", "UTF-16"])
def test_bad_contents_of_other_formats(tmp_path, name, kind):
    content, _ = CONTENTS[kind]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert sentence(tmp_path / name).startswith(f"{tmp_path / name} ")


@pytest.fixture(scope="module")
def large_cif() -> str:
    return p1_cif(random_crystals(1, atoms=(10_000, 10_000)))


def test_ten_thousand_atoms(tmp_path, large_cif):
    (tmp_path / "bad.cif").write_text(large_cif)
    reason = reason_beside_good(tmp_path, "bad.cif")
    assert reason == f"has 10000 atoms, more than the {MAX_ATOMS} allowed"
    assert read(tmp_path, max_atoms=None).num_atoms.tolist() == [10_000, 2]
    assert read(tmp_path, max_atoms=10_000).num_atoms.tolist() == [10_000, 2]
    assert "more than the 1 allowed" in sentence(tmp_path, max_atoms=1)


def test_large_cells_that_only_pymatgen_reads_are_still_bounded(tmp_path, large_cif, monkeypatch):
    monkeypatch.setattr("crysmetrics.io.cif.MAX_FALLBACK_BYTES", 1000)
    (tmp_path / "bad.cif").write_text(large_cif + " ; stray text")
    assert "can't be read as CIF" in reason_beside_good(tmp_path, "bad.cif")


# --- ids -------------------------------------------------------------------------------------


def test_duplicate_ids_in_a_table(tmp_path, monkeypatch):
    rows = [f'{name},"{GOOD}"' for name in ("a", "b", "a", "c", "a")]
    (tmp_path / "x.csv").write_text("\n".join(["material_id,cif", *rows]))
    for chunk in (1, 2, 200):  # within a chunk and across them
        monkeypatch.setattr(reading, "_CHUNK", chunk)
        crystals = read(tmp_path / "x.csv")
        assert crystals.ids == ("a", "b", "c")
        reason = "has the id 'a', already used by x.csv row 1 (a)"
        assert crystals.failures == (("x.csv row 3 (a)", reason), ("x.csv row 5 (a)", reason))


def test_a_failure_does_not_use_up_its_id(tmp_path, monkeypatch):
    bad = GOOD.replace("0.5000000000  0.5", "nan  0.5")
    (tmp_path / "x.csv").write_text(f'id,cif\na,"{bad}"\na,"{GOOD}"\n')
    for chunk in (1, 200):
        monkeypatch.setattr(reading, "_CHUNK", chunk)
        crystals = read(tmp_path / "x.csv")
        assert crystals.ids == ("a",)
        assert [f.file for f in crystals.failures] == ["x.csv row 1 (a)"]


def test_duplicate_ids_in_json(tmp_path):
    record = json.dumps(GOOD)
    (tmp_path / "x.json").write_text(f'{{"a": {record}, "b": {record}, "a": {record}}}')
    crystals = read(tmp_path / "x.json")
    assert crystals.ids == ("a", "b")
    (failure,) = crystals.failures
    assert failure.file == "x.json entry 3"
    assert failure.reason == "has the id 'a', already used by x.json entry 1"


def test_duplicate_ids_in_frames(tmp_path):
    frame = '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 id=a\nPo 0 0 0\n'
    (tmp_path / "x.xyz").write_text(frame * 2)
    assert read(tmp_path / "x.xyz").failures[0].file == "x.xyz frame 2"


def test_duplicate_names_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.cif", GOOD)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.cif", GOOD)
    crystals = read(tmp_path / "x.zip")
    assert len(crystals) == 1
    assert "already used by a.cif" in crystals.failures[0].reason


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
        sources.load(entry)


def test_files_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 2000)
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


# --- archives --------------------------------------------------------------------------------


def zip_with(path: Path, name: str | zipfile.ZipInfo, data: str | bytes = GOOD) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.cif", GOOD)
        archive.writestr(name, data)
    return path


def tar_with(path: Path, info: tarfile.TarInfo, data: bytes = b"") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member, content in ((tarfile.TarInfo("good.cif"), GOOD.encode()), (info, data)):
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def reason_in(path: Path, name: str) -> str:
    crystals = read(path)
    assert crystals.ids == ("good",)
    ((file, reason),) = crystals.failures
    assert file == name
    return reason


@pytest.mark.parametrize("name", ["/etc/x.cif", "../x.cif", "a/../../x.cif", "C:/x.cif", "../x"])
def test_archives_that_lead_outside(tmp_path, name):
    wanted = "has a path that leads outside the archive; refused"
    assert reason_in(zip_with(tmp_path / "x.zip", name), name) == wanted
    info = tarfile.TarInfo(name)
    assert reason_in(tar_with(tmp_path / "x.tar.gz", info, GOOD.encode()), name) == wanted


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_in_a_tar(tmp_path, kind):
    info = tarfile.TarInfo("bad.cif")
    info.type, info.linkname = kind, "/etc/passwd"
    reason = reason_in(tar_with(tmp_path / "x.tgz", info), "bad.cif")
    assert reason == "is a link or device inside an archive; refused"


def test_links_in_a_zip(tmp_path):
    info = zipfile.ZipInfo("bad.cif")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    reason = reason_in(zip_with(tmp_path / "x.zip", info, "/etc/passwd"), "bad.cif")
    assert reason == "is a link or device inside an archive; refused"


def test_encrypted_zip(tmp_path):
    path = zip_with(tmp_path / "x.zip", "bad.cif")
    data = bytearray(path.read_bytes())
    # The flag of encryption, in the second member's local and central header.
    data[data.rindex(b"PK\x03\x04") + 6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert reason_in(path, "bad.cif") == "is encrypted"


def test_zip_with_lying_sizes(tmp_path):
    path = zip_with(tmp_path / "x.zip", "bad.cif", GOOD + " " * 5000)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 24, 100)  # size once unpacked
    path.write_bytes(data)
    assert "can't be unpacked" in reason_in(path, "bad.cif")


def test_zip_of_an_unknown_version(tmp_path):
    path = zip_with(tmp_path / "x.zip", "bad.cif")
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 6] = 119
    path.write_bytes(data)
    assert "can't be read as an archive (zip file version 11.9)" in sentence(path)


def test_damaged_member_of_a_zip(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("bad.cif", GOOD.replace("data_NaCl", "data_MARK"))
        archive.writestr("good.cif", GOOD)
    path.write_bytes(path.read_bytes().replace(b"data_MARK", b"data_mark"))
    assert "can't be unpacked (Bad CRC-32" in reason_in(path, "bad.cif")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_compression_in_a_zip(tmp_path, method):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("bad.cif", GOOD)
        start = archive.getinfo("bad.cif").compress_size
        archive.writestr("good.cif", GOOD, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[45 : 30 + start] = b"\xff" * (start - 15)
    path.write_bytes(data)
    assert "can't be unpacked" in reason_in(path, "bad.cif")


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.xz", "x.tar.bz2"])
@pytest.mark.parametrize("content", [b"", b"no archive", GOOD.encode() * 30])
def test_files_that_are_no_archive(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "can't be read as an archive (" in sentence(tmp_path / name)


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar.xz", "x.tar.bz2"])
def test_truncated_archives(tmp_path, name):
    path = tmp_path / name
    files = {f"{k}.cif": np.random.default_rng(k).bytes(5000) for k in range(5)}
    if name == "x.zip":
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in files.items():
                archive.writestr(member, data)
    else:
        with tarfile.open(path, f"w:{name.rpartition('.')[2]}") as archive:
            for member, data in files.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    path.write_bytes(path.read_bytes()[:12_000])
    assert "can't be read as an archive" in sentence(path)


def test_archives_that_unpack_to_huge_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_TOTAL_BYTES", 10_000)
    bomb = GOOD + " " * 20_000
    info = tarfile.TarInfo("bad.cif")
    for path in (
        zip_with(tmp_path / "x.zip", "bad.cif", bomb),
        tar_with(tmp_path / "x.tar.gz", info, bomb.encode()),
    ):
        assert path.stat().st_size < 5000
        assert sentence(path).endswith("GB, more than 1e-05 GB; refused.")


def test_single_members_that_unpack_to_huge_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 10_000)
    bomb = GOOD + " " * 20_000
    assert "unpacks to" in reason_in(zip_with(tmp_path / "x.zip", "bad.cif", bomb), "bad.cif")
    info = tarfile.TarInfo("bad.cif")
    assert "refused" in reason_in(tar_with(tmp_path / "x.tgz", info, bomb.encode()), "bad.cif")
    twice = gzip.compress(bomb.encode())
    path = zip_with(tmp_path / "y.zip", "bad.cif.gz", twice)
    assert "refused" in reason_in(path, "bad.cif.gz")


def test_archives_without_structures(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w"):
        pass
    assert sentence(tmp_path / "x.zip") == f"{tmp_path}/x.zip holds no structures."
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr("x/notes.txt", "")
        archive.writestr("inner.zip", "")
    assert "only other ones such as inner.zip" in sentence(tmp_path / "y.zip")


# --- tables, JSON and our own files ----------------------------------------------------------


def csv_of(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


TABLES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is empty"),
    "header alone": ("material_id,cif\n", "holds no structures"),
    "no cif column": (
        "material_id,structure\na,b\n",
        "has no column named cif (its columns: mater",
    ),
    "no header": (f'a,"{GOOD}"\n', "has no column named cif (its columns: a, data_NaCl _symm"),
    "tabs": ("material_id\tcif\na\tb\n", "has no column named cif"),
    "unclosed quote": (f'id,cif\na,"{GOOD}"\nb,"data_', "is no CSV table"),
    "ragged": (f'id,cif\na,"{GOOD}"\nb,c,d,e\n', "is no CSV table"),
    "one field too many": (f'id,cif\na,"{GOOD}",x\n', "has rows with more fields than its header"),
    "binary": (np.random.default_rng(0).bytes(3000), ""),
    "NULs": (b"id,cif\n\0\0\0,\0\n", ""),
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_bad_tables(tmp_path, kind, suffix):
    content, wanted = TABLES[kind]
    data = content if isinstance(content, bytes) else content.encode()
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(gzip.compress(data) if suffix == "csv.gz" else data)
    assert wanted in sentence(path)


def test_bad_rows(tmp_path):
    rows = [b'"%s"' % GOOD.encode(), b'"data_\xff"', b"", b'"<html>"', b'"data_x"']
    lines = [b"id,e,cif", *(b"%d,1.5,%s" % (k, row) for k, row in enumerate(rows)), b"5"]
    crystals = read(csv_of(tmp_path / "x.csv", b"\n".join(lines)))
    assert crystals.ids == ("0",)
    assert crystals.failures == (
        ("x.csv row 2 (1)", "is not text: byte 0xff is not UTF-8"),
        ("x.csv row 3 (2)", "is empty"),
        ("x.csv row 4 (3)", "is an HTML or XML page, not a structure"),
        ("x.csv row 5 (4)", "holds no atom sites"),
        ("x.csv row 6 (5)", "is empty"),
    )


def test_undecodable_ids_can_be_printed(tmp_path):
    text = b'id,note,cif\na\xff,\xfe,"%s"\nb\xff,x,\n' % GOOD.encode()
    crystals = read(csv_of(tmp_path / "x.csv", text))
    assert crystals.ids == (r"a\udcff",)
    assert crystals.properties["note"].tolist() == [r"\udcfe"]
    assert crystals.failures == ((r"x.csv row 2 (b\udcff)", "is empty"),)
    (tmp_path / "x.json").write_text('{"\\ud800": ' + json.dumps(GOOD) + "}")
    assert read(tmp_path / "x.json").ids == (r"\ud800",)


@no_thread_dies
def test_damage_late_in_a_long_table(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK", 4)
    monkeypatch.setattr(reading, "_PATIENCE", 0)
    text = "cif\n" + f'"{GOOD}"\n' * 1500 + "a,b,c\n"
    path = csv_of(tmp_path / "x.csv", text)
    assert "is no CSV table" in sentence(path, workers=2)
    assert _settled()


def _settled() -> bool:
    """Whether the processes that parsed are gone; joblib's watchman of temporary files stays."""
    left = [
        process
        for process in psutil.Process().children(recursive=True)
        if "resource_tracker" not in " ".join(process.cmdline())
    ]
    return not psutil.wait_procs(left, timeout=10)[1]


@no_thread_dies
def test_interrupt_while_reading(tmp_path, monkeypatch):
    def interrupt(*_: object) -> Crystals:
        raise KeyboardInterrupt

    write(random_crystals(40), tmp_path / "x.zip")
    monkeypatch.setattr(reading, "_CHUNK", 4)
    monkeypatch.setattr(reading, "_PATIENCE", 0)
    monkeypatch.setattr(reading, "_without_duplicates", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path / "x.zip", workers=2)
    assert _settled()


def test_id_column_that_is_not_there(tmp_path):
    path = csv_of(tmp_path / "x.csv", f'id,cif\na,"{GOOD}"\n')
    assert sentence(path, id_column="name") == f"{path} has no column named name."


@pytest.mark.parametrize("suffix", ["csv.gz", "csv.bz2", "csv.xz", "csv.zip"])
def test_damaged_compressed_tables(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(b"no such thing" * 20)
    assert sentence(path).startswith(f"{path} can't be read (")
    if suffix == "csv.gz":
        path.write_bytes(gzip.compress(f'cif\n"{GOOD}"\n'.encode())[:-20])
        assert sentence(path).startswith(f"{path} can't be read (")


def test_zipped_tables_of_several_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.csv.zip", "w") as archive:
        archive.writestr("a.csv", "cif\n")
        archive.writestr("b.csv", "cif\n")
    assert "holds 2 CSV files instead of one" in sentence(tmp_path / "x.csv.zip")


def test_tables_that_unpack_to_huge_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_TOTAL_BYTES", 10_000)
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"cif\n" + b"x" * 10**6))
    assert "unpacks to more than 1e-05 GB; refused" in sentence(path)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON (it is nested too deeply)"),
        ('{"a": ' + "[" * 100_000, "is no JSON"),
        ("[]", "holds no structures"),
        ("{}", "holds no structures"),
        ("3", "is a int, not a structure"),
        ("1" * 5000, "is no JSON"),
        ('[1, 2, "x"', "is no JSON"),
        ("null\nnull", "is a NoneType"),
    ],
)
def test_bad_json(tmp_path, text, wanted):
    (tmp_path / "x.json").write_text(text)
    assert wanted in sentence(tmp_path / "x.json")


def test_bad_line_of_json_lines(tmp_path):
    good = json.dumps({"id": "a", "cif": GOOD})
    (tmp_path / "x.jsonl").write_text(f"{good}\n{{\n{good[:50]}\n")
    crystals = read(tmp_path / "x.jsonl")
    assert crystals.ids == ("a",)
    assert [f.file for f in crystals.failures] == ["x.jsonl entry 2", "x.jsonl entry 3"]
    assert all("is no JSON" in f.reason for f in crystals.failures)


def npz_bytes(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_bad_npz(tmp_path):
    write(rocksalt(), tmp_path / "good.npz")
    good = (tmp_path / "good.npz").read_bytes()
    text = np.frombuffer(b'{"format": "other"}', dtype=np.uint8)
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    contents = {
        "empty": b"",
        "text": b"hello",
        "truncated": good[:-100],
        "cut in half": good[: len(good) // 2],
        "flipped": good[:200] + bytes(b ^ 0xFF for b in good[200:260]) + good[260:],
        "somebody else's": npz_bytes(x=np.zeros(3)),
        "other format": npz_bytes(text=text),
        "objects": npz_bytes(text=np.array([{}], dtype=object)),
        "pickle": pickled.getvalue(),
        "npy": np.lib.format.magic(1, 0),
    }
    for name, data in contents.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(data)
        assert "is no packed set of crystals (" in sentence(path)


def test_npz_of_failures_alone(tmp_path):
    Crystals.empty([("a.cif", "is empty")]).save(tmp_path / "x.npz")
    assert sentence(tmp_path / "x.npz") == f"{tmp_path}/x.npz: a.cif is empty."
