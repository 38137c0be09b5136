"""Names of devices, and when they are refused."""

import pytest
from click.testing import CliRunner
from sets import random_crystals

import crysmetrics
from crysmetrics.cli import main
from crysmetrics.device import refuse_missing_device, torch_device
from crysmetrics.errors import UserError
from crysmetrics.io import write


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_auto_is_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert torch_device() == torch_device("cuda") == "cuda"
    assert torch_device("cuda:1") == "cuda:1"
    assert torch_device("cpu") == "cpu"
    with pytest.raises(UserError, match="no cuda:2 here"):
        torch_device("cuda:2")


def test_without_a_gpu(no_gpu):
    assert torch_device() == torch_device("cpu") == "cpu"
    refuse_missing_device("auto")
    with pytest.raises(UserError, match="no cuda here; use --device cpu"):
        refuse_missing_device("cuda")


@pytest.mark.parametrize("name", ["", "gpu", "cudax", "cuda:", "cuda:x", "cuda:-1", "cpu:0"])
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match="Devices are auto, cpu and cuda"):
        torch_device(name)


def test_a_missing_device_is_refused_though_nothing_needs_it(no_gpu, tmp_path, monkeypatch):
    """Features may all be cached, and this measure asks for no network: the name is wrong still."""
    monkeypatch.chdir(tmp_path)
    write(random_crystals(3), "gen")
    args = ["evaluate", "gen", "gen", "--metrics", "validity", "-o", "out", "--device", "cuda"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 2
    assert "There is no cuda here" in result.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="no cuda here"):
        crysmetrics.validity(random_crystals(3), device="cuda")


def test_generation_refuses_a_missing_device_before_it_begins(no_gpu, tmp_path, monkeypatch):
    from crysgen.cli import main

    monkeypatch.chdir(tmp_path)
    args = [
        "sample",
        "--composition",
        "Li2O",
        "--method",
        "retrieval",
        "-o",
        "out",
        "--no-energies",
    ]
    result = CliRunner().invoke(main, [*args, "--device", "cuda"])
    assert result.exit_code == 2
    assert "There is no cuda here" in result.stderr
    assert not (tmp_path / "out").exists()
