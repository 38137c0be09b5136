"""CONTRIBUTING.md names files and tables that are there."""

import re

import pytest
from places import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PATHS = sorted(set(re.findall(r"`((?:crysmetrics|crysgen|tests)/[\w./]+)`", TEXT)))
TABLES = re.findall(r"`([A-Z]+)` in `([\w/.]+)`", TEXT)


def test_there_is_something_to_check():
    assert len(PATHS) > 8
    assert len(TABLES) == 6


@pytest.mark.parametrize("path", PATHS)
def test_named_files_exist(path):
    generic = path.replace("NAME.py", "").replace("KIND/default.json", "")
    assert (ROOT / generic).exists()


@pytest.mark.parametrize(("table", "path"), TABLES)
def test_named_tables_exist(table, path):
    assert re.search(rf"^{table}\b.*=", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
