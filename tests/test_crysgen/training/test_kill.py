"""Training runs that are stopped by real signals, and go on as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import tiny_model
from click.testing import CliRunner
from places import TESTS
from sets import random_crystals

from crysgen.cli import main
from crysgen.training.interruption import SaveTimes, StopRequests

pytest.importorskip("lightning_fabric", reason="the extra `train` is not installed")

PROGRAM = str(TESTS / "crysgen_process.py")
SMALL = {
    "network": "pairformer",
    "network_settings": {"channels": 16, "layers": 1, "heads": 2, "radial": 6},
    "standardize_lattice": True,
    "cell_decoder": "residual",
    "lattice_loss": "vector",
}


class Runs:
    """Commands that train one model on one set of crystals."""

    def __init__(self, folder: Path, kind: str, steps: int, model: dict) -> None:
        self.folder, self.kind = folder, kind
        random_crystals(30, seed=2).save(folder / "data.npz")
        settings = {"batch_atoms": 40, "val_steps": 3, "val_draws": 1, "steps": steps}
        (folder / "config.json").write_text(json.dumps({"model": model, "training": settings}))

    def command(self, name: str, *more: str) -> list[str]:
        data, config = str(self.folder / "data.npz"), str(self.folder / "config.json")
        place = ["-o", str(self.folder / name), "--data", data, "--config", config]
        return ["train", self.kind, *place, "--device", "cpu", "--quiet", *more]

    def here(self, name: str, *more: str) -> None:
        """In this process, to the end."""
        result = CliRunner().invoke(main, self.command(name, *more))
        assert result.exit_code == 0, result.output

    def stopped(self, name: str, number: int, rows: int, first: float = 20.0) -> tuple[int, str]:
        """In a process that gets a signal when its log has some rows, and a checkpoint if asked."""
        command = [sys.executable, PROGRAM, str(first), *self.command(name)]
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        log, state = self.folder / name / "log.csv", self.folder / name / "state.json"
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            enough = log.exists() and log.read_text().count("\n") > rows
            if enough and (first >= 20 or state.exists()):
                break
            time.sleep(0.005)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        return process.returncode, error

    def step(self, name: str) -> int:
        return int(json.loads((self.folder / name / "state.json").read_text())["step"])

    def weights(self, name: str) -> dict[str, bytes]:
        """Best models, and the model, its average and the optimiser's moments in the end."""
        return {p.name: p.read_bytes() for p in (self.folder / name).glob("*.safetensors")}

    def losses(self, name: str) -> list[list[str]]:
        """The log without times."""
        rows = (self.folder / name / "log.csv").read_text().splitlines()
        names = rows[0].split(",")
        timed = {names.index("minutes"), names.index("per_second")}
        return [[x for i, x in enumerate(row.split(",")) if i not in timed] for row in rows]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    found = Runs(tmp_path_factory.mktemp("gemsdiff"), "gemsdiff", 60, SMALL)
    found.here("whole")
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_asked_to_stop_ends_after_a_step_and_goes_on_bit_for_bit(
    runs: Runs, number: int
) -> None:
    name = signal.Signals(number).name
    status, error = runs.stopped(name, number, rows=2)
    assert status == 128 + number, error
    assert "go on with the same command and --resume" in error
    assert "Traceback" not in error
    assert 6 <= runs.step(name) < 60
    runs.here(name, "--resume")
    assert runs.weights(name) == runs.weights("whole")
    assert runs.losses(name) == runs.losses("whole")


def test_a_model_of_two_stages_is_killed_in_each_and_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model.register(monkeypatch)
    runs = Runs(tmp_path, "tiny", 180, {"width": 4})
    runs.here("whole")
    for name, rows in (("first", 4), ("second", 34)):
        status, error = runs.stopped(name, signal.SIGKILL, rows, first=0.0)
        assert status == -signal.SIGKILL, error
        state = json.loads((tmp_path / name / "state.json").read_text())
        assert state["stage"] == ("elements" if name == "first" else "volumes")
        assert 0 < state["step"] < 180
        runs.here(name, "--resume")
        assert runs.step(name) == 180
        assert runs.weights(name) == runs.weights("whole")


def test_checkpoints_begin_within_a_minute_and_become_rarer() -> None:
    saves, times = SaveTimes(5.0, now=100.0), []
    for second in range(100, 100 + 3600):
        if saves.due(second):
            saves.saved(second)
            times.append(second - 100)
    assert times[0] <= 60
    gaps = [b - a for a, b in pairwise(times)]
    assert gaps == sorted(gaps)
    assert max(gaps) == 300
    assert all(gap <= max(20, 0.5 * time + 1) for gap, time in zip(gaps, times, strict=False))


def test_the_second_signal_interrupts_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequests(notice=False) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
