"""Damaged files of every format: small good ones, changed at random by a seed.

Each mutant is made from its number and the seed alone, so that one that fails can be made again.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from places import DATA
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from sets import rocksalt

from crysmetrics.io.formats.cif import p1_cif

CASES = DATA / "cases"

NUMBERS = (
    *("0", "-0", "-1", "1e-9", "1e-320", "1e320", "-1e320", "1e308", "nan", "inf", "-inf", "1/3"),
    *("9" * 30, "9" * 400, "1" * 5000, "0." + "3" * 400, "1e" + "9" * 30, "0x10", "1_000", "١"),
    *("180", "90", "360", "119.99999", "2147483648", "9223372036854775808", "-5", "1.5", "1d0"),
)
OPERATIONS = (
    *(
        "x,y,z",
        "-x,-y,-z",
        "x,x,z",
        "0,0,0",
        "2x,y,z",
        "x/2,y,z",
        "x+1/0,y,z",
        "x,y",
        "",
        "x,y,z,-1",
    ),
    *(
        "y,z,x",
        "x+" + "9" * 300 + ",y,z",
        "x*y,z," + "9" * 5000,
        "-y,x-y,z+1/3",
        "x+y+z,y,z",
        "a,b,c",
    ),
    *("x,y,z" * 400, "x+nan,y,z", "x+1e9,y,z", "1/2+x,1/2+y,z", "(x),y,z", "x,y,-z+.25"),
)
GROUPS = (
    *(
        "P 1",
        "P -1",
        "F m -3 m",
        "F d -3 m",
        "F d -3 m:2",
        "R -3 m",
        "R -3 m:H",
        "P 21/c",
        "I 41/a m d",
    ),
    *("Q 7", "P" * 5000, "225", "-1", "999", "P 6", "'", "P 4/n :9", "?", "", "\x1b[31m"),
)
WORDS = (
    *(
        "data_",
        "data_b\n",
        "loop_",
        "_atom_site_fract_x",
        ";",
        "'",
        '"',
        "#",
        "?",
        ".",
        ",",
        "\t",
        "\r",
    ),
    *(
        "\0",
        "\x1b[2J",
        "é",
        "\u202e",
        "\ufeff",
        "{",
        "}",
        "[",
        "]",
        "null",
        "NaN",
        "true",
        "-",
        "+",
    ),
    *(
        "Cs+Rb",
        "2H",
        "OH",
        "X",
        "```",
        "Lattice=",
        "pos:R:3",
        "../../etc/passwd",
        "=cmd|' /C calc'!A0",
    ),
)


class Mutant(NamedTuple):
    """One damaged file."""

    name: str
    """File name, whose suffix says the format."""
    content: bytes
    changes: str
    """What was done to it, for messages."""


def mutants(count: int, seed: int = 0, start: int = 0) -> Iterator[Mutant]:
    """Yield `count` damaged files, of all formats in turn."""
    makers = list(MAKERS.items())
    for number in range(start, start + count):
        suffix, make = makers[number % len(makers)]
        rng = random.Random(f"{seed} {number}")
        content, changes = make(rng)
        yield Mutant(f"m{number}{suffix}", content, changes)


# --- good files ------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _cifs() -> tuple[str, ...]:
    wurtzite = Structure.from_spacegroup(
        "P6_3mc",
        Lattice.hexagonal(3.25, 5.2),
        ["Zn", "O"],
        [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.38]],
    )
    texts = [p1_cif(rocksalt(5.64, "NaCl"))]
    texts += [str(CifWriter(wurtzite, symprec=symprec)) for symprec in (None, 0.01)]
    names = ("c01b_round3dec_hcp_formula", "c10g_dotted", "c10j_markdown", "d28_fd3m_origin2_bare")
    texts += [(CASES / f"{name}.cif").read_text() for name in names]
    return (*texts, (CASES / "d34_multi_block_mixed.cif").read_text())


_POSCAR = """\
Na Cl
1.0
4.0 0.0 0.0
0.0 4.0 0.0
0.0 0.0 4.0
Na Cl
1 1
Direct
0.0 0.0 0.0
0.5 0.5 0.5
"""
_FRAME = """\
2
Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 energy=-1.5 id=a pbc="T T T"
Na 0.0 0.0 0.0
Cl 2.0 2.0 2.0
"""


@lru_cache(maxsize=1)
def _records() -> str:
    structure = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]).as_dict()
    row = {"material_id": "m1", "cif": _cifs()[0], "band_gap": 1.5}
    return json.dumps([{**structure, "id": "s1"}, row], indent=1)


def _table(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return (CASES / rng.choice(("e_semicolon.csv", "b_structure_json.csv"))).read_text()
    rows = [f'{k},"{rng.choice(_cifs())}",{k / 7}' for k in range(3)]
    return "\n".join(["material_id,cif,energy", *rows]) + "\n"


# --- changes ---------------------------------------------------------------------------------


def _change_text(text: str, rng: random.Random) -> tuple[str, str]:
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        change = rng.choice(_CHANGES)
        done.append(change.__name__.strip("_"))
        text = change(text, rng)
    return text, "-".join(done)


def _span(text: str, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(text) + 1)
    return start, min(len(text), start + rng.choice((1, 1, 2, 5, 20, 100)))


def _cut(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text) + 1)]


def _drop(text: str, rng: random.Random) -> str:
    start, end = _span(text, rng)
    return text[:start] + text[end:]


def _repeat(text: str, rng: random.Random) -> str:
    start, end = _span(text, rng)
    return text[:end] + text[start:end] * rng.choice((1, 2, 50)) + text[end:]


def _lines(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        lines[i], lines[j] = lines[j], lines[i]
    elif kind == 1:
        del lines[i]
    elif kind == 2:
        lines.insert(j, lines[i])
    else:
        lines[i:i] = [lines[i]] * rng.choice((2, 10, 1000))
    return "\n".join(lines)


def _word(text: str, rng: random.Random) -> str:
    start, end = _span(text, rng)
    return text[:start] + rng.choice(WORDS) + text[rng.choice((start, end)) :]


def _number(text: str, rng: random.Random) -> str:
    starts = [i for i, c in enumerate(text) if c.isdigit() and not text[i - 1 : i].isdigit()]
    if not starts:
        return text
    start = end = rng.choice(starts)
    while end < len(text) and text[end] in "0123456789.":
        end += 1
    return text[:start] + rng.choice(NUMBERS) + text[end:]


def _huge(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    piece = rng.choice(("9", "x", "(", "'", "1.", "\n", " ", "[", "-", "a ", "1 ", "\u00e9", "+x"))
    return text[:at] + piece * rng.choice((1000, 20_000)) + text[at:]


def _operation(text: str, rng: random.Random) -> str:
    operations = "\n".join(f"'{rng.choice(OPERATIONS)}'" for _ in range(rng.choice((1, 2, 8))))
    kept = text.replace(
        "_symmetry_equiv_pos_as_xyz\n", f"_symmetry_equiv_pos_as_xyz\n{operations}\n"
    )
    return (
        kept
        if kept != text
        else text.replace("loop_", f"loop_\n_symmetry_equiv_pos_as_xyz\n{operations}\nloop_", 1)
    )


def _group(text: str, rng: random.Random) -> str:
    tag = rng.choice(
        ("_symmetry_space_group_name_H-M", "_space_group_IT_number", "_space_group_name_Hall")
    )
    lines = [
        line for line in text.split("\n") if "space_group_name" not in line and "x," not in line
    ]
    at = next((i for i, line in enumerate(lines) if line.startswith("data_")), 0)
    lines.insert(at + 1, f"{tag} '{rng.choice(GROUPS)}'")
    return "\n".join(lines)


def _thrice(text: str, rng: random.Random) -> str:
    return text * rng.choice((2, 3, 30))


def _column(text: str, rng: random.Random) -> str:
    """One of the tags, keys or column names is another."""
    names = [
        w
        for w in text.replace('"', " ").replace(",", " ").split()
        if w[:1].isalpha() or w[:1] == "_"
    ]
    if not names:
        return text
    return text.replace(rng.choice(names), rng.choice([*names, "_x", "cif", "abc"]), 1)


_CHANGES: tuple[Callable[[str, random.Random], str], ...] = (
    *(_cut, _drop, _drop, _repeat, _lines, _lines, _word, _word, _word, _number, _number, _number),
    *(_huge, _operation, _group, _thrice, _column, _column),
)


def _change_bytes(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    kind = rng.choice(("flip", "flip", "cut", "insert", "drop", "none"))
    at = rng.randrange(len(data))
    if kind == "flip":
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 3, 30))):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        data = bytes(changed)
    elif kind == "cut":
        data = data[:at]
    elif kind == "insert":
        data = data[:at] + rng.randbytes(rng.choice((1, 8, 500))) + data[at:]
    elif kind == "drop":
        data = data[:at] + data[at + rng.choice((1, 4, 100)) :]
    return data, kind


def _encode(text: str, rng: random.Random) -> bytes:
    encoding = rng.choice((*["utf-8"] * 12, "utf-16", "latin-1", "utf-8-sig"))
    if rng.random() < 0.1:
        text = text.replace("\n", rng.choice(("\r\n", "\r", "\n\n")))
    return text.encode(encoding, "replace")


# --- formats ---------------------------------------------------------------------------------


def _text_maker(
    good: Callable[[random.Random], str],
) -> Callable[[random.Random], tuple[bytes, str]]:
    def make(rng: random.Random) -> tuple[bytes, str]:
        text, changes = _change_text(good(rng), rng)
        data = _encode(text, rng)
        if data and rng.random() < 0.05:
            data, kind = _change_bytes(data, rng)
            changes += f"-{kind}"
        return data, changes

    return make


def _from_cases(pattern: str, *others: str) -> Callable[[random.Random], str]:
    """One of the case files whose names match, or one of the other texts."""
    texts = [path.read_text() for path in sorted(CASES.glob(pattern))]
    return lambda rng: rng.choice([*texts, *others])


def _pt(rng: random.Random) -> tuple[bytes, str]:
    """A file of PyTorch with changed members, its checksums right, or with changed bytes."""
    good = (CASES / "eval_gen.pt").read_bytes()
    if rng.random() < 0.3:
        return _change_bytes(good, rng)
    buffer, done = io.BytesIO(), "plain"
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(buffer, "w") as archive:
        names = source.namelist()
        pickled = [name for name in names if name.endswith("data.pkl")]
        chosen = rng.choice((*pickled, rng.choice(names)))
        for name in names:
            content = source.read(name)
            if name == chosen and content:
                content, kind = _change_bytes(content, rng)
                done = f"{name}-{kind}"
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue(), done


_cif = _text_maker(lambda rng: rng.choice(_cifs()))


def _gz(rng: random.Random) -> tuple[bytes, str]:
    content, changes = _cif(rng)
    data, kind = _change_bytes(gzip.compress(content, mtime=0), rng)
    return data, f"{changes}-{kind}"


def _zip(rng: random.Random) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(
        buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as archive:
        for name in rng.sample(_NAMES, 3):
            archive.writestr(zipfile.ZipInfo(name), _cif(rng)[0])
    data, kind = _change_bytes(buffer.getvalue(), rng)
    return data, kind


def _tar(rng: random.Random) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in rng.sample(_NAMES, 3):
            content, info = _cif(rng)[0], tarfile.TarInfo(name)
            info.size = len(content)
            info.type = rng.choice(
                (*[tarfile.REGTYPE] * 8, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.LNKTYPE)
            )
            info.linkname = "/etc/passwd"
            archive.addfile(info, io.BytesIO(content))
    data, kind = _change_bytes(buffer.getvalue(), rng)
    if rng.random() < 0.5:
        data = gzip.compress(data, mtime=0)
    return data, kind


_NAMES = (
    "a.cif",
    "b/c.cif",
    "../d.cif",
    "/e.cif",
    "f.vasp",
    "g.txt",
    "\x1b[31mh.cif",
    "i\n.cif",
    "POSCAR",
)


@lru_cache(maxsize=1)
def _arrays() -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        rocksalt(5.64, "NaCl").save(path)
        with np.load(path) as stored:
            return {name: stored[name] for name in stored.files}


def _npz(rng: random.Random) -> tuple[bytes, str]:
    arrays, buffer = dict(_arrays()), io.BytesIO()
    done = "plain"
    if rng.random() < 0.7:
        name = rng.choice(sorted(arrays))
        array = arrays[name]
        done = rng.choice(("empty", "text", "flat", "nan", "huge", "negative", "shape", "zero"))
        arrays[name] = {
            "empty": array[:0] if array.ndim else array,
            "text": np.array(["x"] * max(1, array.size)),
            "flat": array.reshape(-1),
            "nan": np.full(array.shape, np.nan),
            "huge": np.full(array.shape, 2**62),
            "negative": np.full(array.shape, -1),
            "shape": array.reshape(-1)[:, None],
            "zero": np.zeros(array.shape),
        }[done]
    np.savez(buffer, **arrays)
    data, kind = _change_bytes(buffer.getvalue(), rng)
    return data, f"{done}-{kind}"


MAKERS: dict[str, Callable[[random.Random], tuple[bytes, str]]] = {
    ".cif": _cif,
    ".vasp": _text_maker(_from_cases("*.vasp", _POSCAR, _POSCAR)),
    ".CIF": _cif,
    ".extxyz": _text_maker(lambda rng: _FRAME * rng.choice((1, 3))),
    ".mcif": _cif,
    ".json": _text_maker(_from_cases("*.json", *[_records()] * 3)),
    ".cif.gz": _gz,
    ".csv": _text_maker(_table),
    ".tsv": _text_maker(_from_cases("f_tab.tsv")),
    ".zip": _zip,
    ".tar": _tar,
    ".npz": _npz,
    ".jsonl": _text_maker(lambda rng: "\n".join([_records().replace("\n", "")] * 2)),
    ".pt": _pt,
}
