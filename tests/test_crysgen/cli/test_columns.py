"""Columns of tables that are named in commands that read structures."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from sets import rocksalt

from crysgen.cli import main
from crysgen.requests import ask_path, read_structures
from crysgen.retrieval.library.user import add_to_user_library
from crysgen.training.data import training_sets
from crysmetrics.errors import UserError
from crysmetrics.io.crystals import Crystals
from crysmetrics.io.formats.cif import p1_cif


@pytest.fixture
def table(tmp_path):
    import pandas as pd

    crystals: Crystals = rocksalt()
    cifs = [p1_cif(crystal) for crystal in crystals]
    names = [f"my-{i}" for i in range(len(cifs))]
    path = tmp_path / "mine.csv"
    pd.DataFrame({"label": names, "relaxed": cifs, "weight": 1.0}).to_csv(path, index=False)
    return path, len(cifs)


def test_structures_are_read_from_named_columns(table, tmp_path):
    path, count = table
    columns = {"id_column": "label", "cif_column": "relaxed"}
    assert read_structures(path, **columns).ids[0] == "my-0"
    assert ask_path(path, 1, **columns)[0].ref_id == "my-0"
    assert len(ask_path(path, 1, **columns)) == count
    added, _, failures = add_to_user_library([path], tmp_path / "library.npz", **columns)
    assert added > 0
    assert not failures
    train, _ = training_sets([path], path, 20, **columns)
    assert len(train) == count
    with pytest.raises(UserError):
        read_structures(path, cif_column="nothing")


@pytest.mark.parametrize(
    "command",
    [["sample"], ["noise"], ["library", "add"], ["train", "gemsdiff"]],
)
def test_commands_that_read_structures_take_columns(command):
    help_text = CliRunner().invoke(main, [*command, "--help"]).output
    assert "--cif-column" in help_text
    assert "--id-column" in help_text
