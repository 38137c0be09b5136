"""Bad archives: named failures, or one clear sentence."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bad_input import GOOD, sentence

from crysmetrics.io import limits, read


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
    monkeypatch.setattr(limits, "MAX_TOTAL_BYTES", 10_000)
    bomb = GOOD + " " * 20_000
    info = tarfile.TarInfo("bad.cif")
    for path in (
        zip_with(tmp_path / "x.zip", "bad.cif", bomb),
        tar_with(tmp_path / "x.tar.gz", info, bomb.encode()),
    ):
        assert path.stat().st_size < 5000
        assert "unpacks to" in sentence(path)
        assert sentence(path).endswith("refused.")


def test_single_members_that_unpack_to_huge_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 10_000)
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


def test_names_with_line_ends_do_not_break_sentences(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("i\n.md", "x")
    assert "only other ones such as i .md" in sentence(tmp_path / "x.zip")
