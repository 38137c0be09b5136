"""Damaged results are refused in a sentence: a gate must not take them for equal, or for worse."""

from __future__ import annotations

import copy
import json
import random

import pytest
from click.testing import CliRunner
from results import document

from crysmetrics.cli import main
from crysmetrics.reporting.documents import faults

BASE = document(
    **{"n_gen": 600, "cov_recall": (0.73, 0.018), "fad": (8.2, 2.9), "kad": (-0.01, 0.02)}
)
DELETED = object()


def damaged(path, value):
    found = copy.deepcopy(BASE)
    part = found
    for name in path[:-1]:
        part = part[name]
    if value is DELETED:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return found


def entry(name, value):
    return ("metrics", "cov_recall", name), value


DAMAGE = [
    entry("value", float("nan")),
    entry("value", float("inf")),
    entry("value", 10**400),
    entry("value", "0.73"),
    entry("value", True),
    entry("value", 7.3),
    entry("value", 0.1),  # outside its interval
    entry("value", None),  # without a reason
    entry("value", DELETED),
    entry("stderr", float("nan")),
    entry("stderr", float("inf")),
    entry("stderr", -0.018),
    entry("stderr", 0.4),
    entry("stderr", 1e300),
    entry("stderr", DELETED),
    entry("better", "lower"),
    entry("better", "better"),
    entry("better", DELETED),
    entry("unit", "%"),
    entry("ci95", 3),
    entry("ci95", [0.9, 0.7]),
    entry("ci95", [0.7, None]),
    entry("n_gen", -5),
    entry("n_gen", 1.5),
    entry("n_gen", "600"),
    entry("note", 4),
    (("metrics", "fad", "stderr"), 1e-9),  # would let nothing be the same
    (("metrics", "fad", "stderr"), 1e200),  # would let nothing be worse
    (("metrics", "cov_recall"), None),
    (("metrics", "covrecall"), dict(BASE["metrics"]["fad"])),
    (("metrics",), []),
    (("metrics",), DELETED),
    (("settings",), "x"),
    (("settings",), DELETED),
    (("extractors",), None),
    (("extractors", "alignn"), "x"),
    (("extractors", "alignn"), {"version": 1, "hash": "1"}),
    (("inputs",), DELETED),
    (("inputs", "gen"), DELETED),
    (("inputs", "gen", "read"), -1),
    (("inputs", "ref"), float("nan")),
    (("inputs", "ref"), {"path": "x"}),
    (("inputs", "ref", "sha256"), 5),
    (("failures",), {}),
    (("schema",), "crysmetrics/2"),
]


@pytest.mark.parametrize(("path", "value"), DAMAGE, ids=[f"{p[-1]}-{v!s:.9}" for p, v in DAMAGE])
def test_damage_is_refused_by_compare_and_rank(tmp_path, path, value):
    base, other = tmp_path / "base.json", tmp_path / "other.json"
    base.write_text(json.dumps(BASE))
    other.write_text(json.dumps(damaged(path, value)))
    for args in (
        ["compare", str(base), str(other)],
        ["compare", str(other), str(base), "--all"],
        ["rank", str(base), str(other)],
    ):
        result = CliRunner().invoke(main, args)
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == 2, result.output
        assert result.stderr.count("Error: ") == 1
        assert result.stdout == ""


def test_undamaged_results_have_no_fault():
    assert list(faults(BASE)) == []


@pytest.mark.parametrize("text", ["", "null", "[]", "1", "{", '{"schema": 1}', "[" * 100_000])
def test_what_is_no_document_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    for args in (["compare", str(path), str(path)], ["rank", str(path)]):
        result = CliRunner().invoke(main, args)
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == 2


def test_mutated_bytes_never_end_in_a_traceback(tmp_path):
    rng = random.Random(0)
    text = json.dumps(BASE, indent=1).encode()
    base, other = tmp_path / "base.json", tmp_path / "other.json"
    base.write_bytes(text)
    for _ in range(300):
        data = bytearray(text)
        for _ in range(rng.choice((1, 1, 2, 5))):
            k = rng.randrange(len(data))
            how = rng.randrange(3)
            if how == 0:
                data[k] = rng.randrange(256)
            elif how == 1:
                del data[k : k + rng.randrange(1, 40)]
            else:
                data[k:k] = rng.choice((b"NaN", b"1e999", b"-", b"{", b"null", b"9" * 400, b'"'))
        other.write_bytes(data)
        for args in (["compare", str(base), str(other)], ["rank", str(other), str(base)]):
            result = CliRunner().invoke(main, args)
            assert result.exception is None or isinstance(result.exception, SystemExit), data
            assert result.exit_code in (0, 2), data  # no such change is a worse model
