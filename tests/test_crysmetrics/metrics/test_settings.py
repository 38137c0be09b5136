import math
from dataclasses import fields

import pytest
from click.testing import CliRunner
from sets import random_crystals

import crysmetrics
from crysmetrics.cli import main
from crysmetrics.errors import UserError
from crysmetrics.io import write
from crysmetrics.metrics.settings import EvaluationSettings, parse_subset, parse_thresholds

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {name: v}
            for name in ("min_distance", "min_volume")
            for v in (NAN, INF, -1.0, "1", True)
        ),
        *({name: v} for name in ("stol", "angle_tol", "ltol") for v in (NAN, INF, 0.0, -0.5, None)),
        *({"seed": v} for v in (-1, 1.5, True, "0")),
        *({"subset": v} for v in ("", "valid:", "valid:0", "-5", "1e3", "all:5", "valid:1.5")),
        {"thresholds": (0.4, 10)},
    ],
    ids=str,
)
def test_invalid_settings_are_refused(wrong):
    with pytest.raises(UserError):
        EvaluationSettings(**wrong)
    if "thresholds" not in wrong:
        with pytest.raises(UserError):
            crysmetrics.validity(random_crystals(2), **wrong)


def test_unknown_options_are_named():
    with pytest.raises(UserError, match="no option min_distnace"):
        crysmetrics.validity(random_crystals(2), min_distnace=1.0)


@pytest.mark.parametrize("text", ["nan,10", "0.4,inf", "0.4", "0.4,10,1", "-1,10", "mp-20", ""])
def test_thresholds_are_finite(text):
    with pytest.raises(UserError):
        parse_thresholds(text)


def test_subsets():
    assert parse_subset("all") == (False, None)
    assert parse_subset("20") == (False, 20)
    assert parse_subset("valid") == parse_subset("valid:all") == (True, None)
    assert parse_subset("valid:1000") == (True, 1000)


@pytest.mark.parametrize(
    "args",
    [
        *(["validity", "GEN", "--min-distance", v] for v in ("nan", "inf", "-1", "NaN", "-inf")),
        *(["match", "GEN", "GEN", o, v] for o in ("--stol", "--ltol") for v in ("nan", "inf", "0")),
        ["match", "GEN", "GEN", "--angle-tol", "nan"],
        *(["match", "GEN", "GEN", "--top", v] for v in ("", "0", "nan", "1,", "1.5", "-1")),
        *(["coverage", "GEN", "GEN", "--thresholds", v] for v in ("nan,1", "1,inf", "", ",")),
        *(["evaluate", "GEN", "GEN", "--metrics", v] for v in ("", ",", "fad,", " ")),
        *(["evaluate", "GEN", "GEN", "--subset", v] for v in ("", "nan", "valid:nan", "0")),
        *(["frechet", "GEN", "GEN", "--features", v] for v in ("", ",", "crystalnn,")),
        *(["featurize", "GEN", "-o", "x.npz", "--features", v] for v in ("", ",")),
        *(["convert", "GEN", "x", "--symmetrize", "--tolerance", v] for v in ("nan", "inf", "0")),
        *(["validity", "GEN", "--workers", v] for v in ("nan", "0", "-1", "1.5")),
        *(["fad", "GEN", "GEN", "--seed", v] for v in ("nan", "-1", str(2**64), "1e3")),
    ],
    ids=" ".join,
)
def test_numbers_that_are_none_and_empty_lists_are_refused(args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(random_crystals(2, 1), tmp_path / "GEN")
    result = CliRunner().invoke(main, args)
    assert isinstance(result.exception, SystemExit), result.output
    assert result.exit_code == 2, result.output
    assert "Error: " in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"GEN"}


def test_options_have_the_defaults_of_the_settings():
    defaults = EvaluationSettings()
    declared = {field.name for field in fields(defaults) if field.metadata}
    assert {"thresholds", "subset", "seed", "stol", "min_distance"} <= declared
    for command in ("evaluate", "match", "validity", "coverage", "diversity"):
        for parameter in main.get_command(None, command).params:
            if parameter.name in declared:
                default = getattr(defaults, parameter.name)
                assert parameter.default in (default, getattr(default, "name", default))
