"""What reaches a terminal or a spreadsheet of names that come from anywhere."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from programs import CRYSGEN, CRYSMETRICS
from sets import random_crystals

from crysgen.cli import main as crysgen
from crysmetrics.cli import main as crysmetrics
from crysmetrics.cli.options import show_log
from crysmetrics.console import console, echo, shown
from crysmetrics.io import write
from crysmetrics.io.csv_files import quoted, unquoted, write_csv
from crysmetrics.io.json_files import write_json

EVIL = "a\x1b[31m\x1b]0;title\x07\r\n\u202eb\u2028\x9b2J\x00[cgcnn][/] :smile:"
HARMLESS = r"a\x1b[31m\x1b]0;title\x07\r\n\u202eb\u2028\x9b2J\x00[cgcnn][/] :smile:"


def is_harmless(text: str) -> bool:
    return not any(
        unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") for c in text.replace("\n", "")
    )


def test_names_are_shown_on_one_line_and_as_they_are() -> None:
    assert shown(EVIL) == HARMLESS
    assert shown("Li₂O – Å [100] é 錫") == "Li₂O – Å [100] é 錫"


def test_every_control_character_and_mark_of_direction_is_escaped() -> None:
    for code in range(0x110000):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs"):
            assert shown(character) != character, hex(code)
        if unicodedata.bidirectional(character) in (
            *("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"),
        ):
            assert shown(character) != character, hex(code)


def test_tables_lines_and_logs_escape_by_themselves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.table import Table

    table = Table(title=EVIL, caption=EVIL)
    table.add_column(EVIL)
    table.add_row(EVIL)
    screen = console(piped_width=400)
    screen.print(table)
    screen.print(EVIL)
    echo(EVIL)
    printed = capsys.readouterr().out
    assert is_harmless(printed)
    assert printed.count(HARMLESS) == 6
    monkeypatch.setattr(logging.root, "handlers", [])
    show_log(quiet=False)
    logging.getLogger("crysmetrics").warning("%s is no file", EVIL)
    assert capsys.readouterr().err == f"{HARMLESS} is no file\n"


def test_tables_for_documents_hold_no_control_characters() -> None:
    from crysmetrics.reporting.latex import escape_latex
    from crysmetrics.reporting.tables import escape_markdown

    assert is_harmless(escape_markdown(EVIL))
    assert is_harmless(escape_latex(EVIL))
    assert "\n" not in escape_markdown(EVIL) + escape_latex(EVIL)


def in_terminal(command: list[str], cwd: Path) -> str:
    """What a command writes to a terminal, colours and progress with it."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(command, cwd=cwd, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    found = b""
    while True:
        try:
            found += (part := os.read(leader, 65536))
        except OSError:  # Linux's end of file
            break
        if not part:
            break
    process.wait()
    os.close(leader)
    return found.decode()


def test_names_of_files_and_ids_do_nothing_to_a_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write(random_crystals(2), folder)
    (folder / "\x1b]0;title\x07\u202e[bold]x.cif").write_text("data_x")
    (folder / "\x1b[2J.txt").write_text("of another kind")
    text = in_terminal([*CRYSMETRICS, "validity", "set", "--workers", "1"], tmp_path)
    assert r"\x1b]0;title\x07\u202e[bold]x.cif" in text
    assert r"\x1b[2J.txt" in text
    colours = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[hl]|\x1b\[\d*[AK]|\r")
    assert is_harmless(colours.sub("", text))
    for command in (
        [*CRYSMETRICS, "convert", "set", "out.npz"],
        [*CRYSMETRICS, "validity", "\x1b[31m[red]"],
        [*CRYSGEN, "sample", "--compositions", "set", "-n", "1", "-o", "set"],
        [*CRYSGEN, "library", "add", "\x1b[31m\n[red]"],
    ):
        text = in_terminal(command, tmp_path)
        assert is_harmless(colours.sub("", text)), command
        assert "Traceback" not in text


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-x", "'-x"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("'=1", "''=1"),
        ("''-", "'''-"),
        ("-1.5", "-1.5"),
        ("+2e-3", "+2e-3"),
        ("'quoted'", "'quoted'"),
        ("Li2O", "Li2O"),
        ("", ""),
        (-1.5, -1.5),
        (None, None),
    ],
)
def test_cells_that_a_spreadsheet_would_run_are_text(cell: object, written: object) -> None:
    assert quoted(cell) == written
    if isinstance(cell, str):
        assert unquoted(str(written)) == cell


def test_tables_keep_their_numbers(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["=a", "b"], "x": [-1.5, np.nan], "n": [-1, 2], "=c": [None, "-"]})
    write_csv(table, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "id,x,n,'=c\n'=a,-1.5,-1,\nb,,2,'-\n"
    assert list(table.columns) == ["id", "x", "n", "=c"]


def test_ids_and_failures_are_quoted_in_tables_and_whole_in_json(tmp_path: Path) -> None:
    ids = ("=1+1", "@x", "-y")
    write(random_crystals(3).with_ids(ids), tmp_path / "set.npz")
    options = ["--workers", "1", "--quiet"]
    command = ["validity", str(tmp_path / "set.npz"), "--per-structure", str(tmp_path / "t.csv")]
    done = CliRunner().invoke(crysmetrics, [*command, *options], catch_exceptions=False)
    assert done.exit_code == 0
    written = (tmp_path / "t.csv").read_text().splitlines()[1:]
    assert [row.partition(",")[0] for row in written] == [f"'{name}" for name in ids]


def test_pairs_are_found_by_ids_that_were_quoted(tmp_path: Path) -> None:
    """`ref_id` and `file` of samples.csv, as written and as read."""
    from crysmetrics.matching.pairing import read_table

    found = {"file": ["=a.cif", "'b.cif"], "ref_id": ["-r", "'=s"], "rank": ["1", "2"]}
    write_csv(pd.DataFrame(found), tmp_path / "samples.csv")
    assert read_table(tmp_path) == found


def test_json_has_no_nan_and_is_whole(tmp_path: Path) -> None:
    write_json({"a": "Å", "b": [1]}, tmp_path / "x.json")
    assert (
        tmp_path / "x.json"
    ).read_bytes() == '{\n  "a": "Å",\n  "b": [\n    1\n  ]\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json({"a": np.nan}, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": "Å", "b": [1]}


@pytest.mark.parametrize(
    "command",
    [
        [crysmetrics, "fad", "set.zip", "set.zip"],
        [crysmetrics, "evaluate", "set.zip", "set.zip"],
        [crysgen, "sample", "--composition", "Li2O"],
        [crysgen, "noise", "set.zip", "--step", "1", "-o", "out"],
        [crysgen, "train", "gemsdiff", "--data", "set.zip", "-o", "out"],
    ],
    ids=lambda command: command[1],
)
@pytest.mark.parametrize("seed", [2**64, 10**30, -1])
def test_seeds_beyond_64_bits_are_refused_in_a_sentence(
    command: list, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program, *rest = command
    done = CliRunner().invoke(program, [*rest, "--seed", str(seed)])
    assert done.exit_code == 2
    assert f"Invalid value for '--seed': {seed} is not in the range" in done.output
    assert not list(tmp_path.iterdir())


def test_the_largest_seed_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    largest = 2**64 - 1
    torch.Generator().manual_seed(largest)
    write(random_crystals(4), tmp_path / "set.zip")
    for program, command in (
        (crysmetrics, ["emd", "set.zip", "set.zip", "--property", "density", "--subset", "2"]),
        (crysgen, ["noise", "set.zip", "--step", "1", "-o", "out", "--device", "cpu"]),
    ):
        done = CliRunner().invoke(program, [*command, "--seed", str(largest)])
        assert done.exit_code == 0, done.output
