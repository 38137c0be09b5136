"""The notebooks run from top to bottom, and show what their text says."""

from __future__ import annotations

import pytest

import notebooks


def outputs(name, folder):
    notebook = notebooks.load(notebooks.ROOT / "notebooks" / name)
    shown = notebooks.run(notebook, folder)
    return [
        "".join("".join(part) for part in (o.get("text", []), *o.get("data", {}).values()))
        for cell in shown
        for o in cell
    ]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSMETRICS_CACHE", str(tmp_path / "cache"))


def test_there_are_two():
    names = [path.name for path in notebooks.NOTEBOOKS]
    assert names == ["crystals_of_a_formula.ipynb", "score_my_samples.ipynb"]


def test_scores(tmp_path):
    shown = outputs("score_my_samples.ipynb", tmp_path)
    assert any("empty.cif" in text for text in shown)
    assert any("cov_recall" in text and "<table>" in text for text in shown)
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_crystals(tmp_path):
    shown = outputs("crystals_of_a_formula.ipynb", tmp_path)
    assert any(text.count("<svg") >= 4 for text in shown)
    assert (tmp_path / "candidates.html").exists()
    assert sorted(p.suffix for p in tmp_path.glob("Li2O*")) == [".cif", ".vasp"]
