"""Batches on their way: a run that is killed within one goes on there, with the same crystals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sets import random_crystals

from crysgen import sampling
from crysgen.compositions.formulas import parse_formula
from crysgen.models.gemsdiff import GemsDiff
from crysgen.models.gemsdiff_config import GemsDiffConfig
from crysgen.output import open_run
from crysgen.requests import ask_formulas, draws
from crysgen.sampling import plan_batches, sample
from crysgen.training.batch import Batch
from crysgen.unfinished import UnfinishedBatches

STEPS = 12


class KillError(BaseException):
    """In place of a signal that nothing catches."""


@pytest.fixture(params=[False, True], ids=["plain", "self-conditioning"])
def model(request) -> GemsDiff:
    torch.manual_seed(0)
    config = GemsDiffConfig(
        network="pairformer",
        network_settings={"channels": 16, "layers": 2, "heads": 2, "radial": 8},
        standardize_lattice=True,
        lattice_loss="vector",
        self_conditioning=request.param,
    )
    batch = Batch.from_crystals(random_crystals(8), torch.float32)
    return GemsDiff(GemsDiff.fitted(config, batch)).eval()


@pytest.fixture
def batches():
    requests = ask_formulas([parse_formula("Li2O"), parse_formula("NaCl")], 4, (1, 2))
    return plan_batches(draws(requests, 0), batch_size=3)


def steps_taken(model, monkeypatch, killed_after=None) -> list[int]:
    taken = [0]

    def step(state, inputs):
        if taken[0] == killed_after:
            raise KillError
        taken[0] += 1
        return type(model).step(model, state, inputs)

    monkeypatch.setattr(model, "step", step, raising=False)
    return taken


def sampled(model, batches, unfinished=None):
    return [
        (crystals.ids, crystals.frac_coords.tolist(), crystals.lattices.tolist())
        for crystals in sample(
            model, batches, steps=STEPS, unfinished=unfinished, redraw_clashes=False
        )
    ]


@pytest.mark.parametrize("killed_after", [1, 7, STEPS, STEPS + 5])
def test_a_killed_batch_goes_on_where_it_was(model, batches, monkeypatch, tmp_path, killed_after):
    monkeypatch.setattr(sampling, "SECONDS", 0.0)
    wanted = sampled(model, batches)
    unfinished = UnfinishedBatches(tmp_path, "diffusion")
    with monkeypatch.context() as patch:
        steps_taken(model, patch, killed_after)
        with pytest.raises(KillError):
            sampled(model, batches, unfinished)
    with monkeypatch.context() as patch:
        taken = steps_taken(model, patch)
        assert sampled(model, batches, unfinished) == wanted
    assert taken == [len(batches) * STEPS - killed_after]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other batch", "other steps"])
def test_a_state_that_is_damaged_or_of_another_batch_is_not_used(
    model, batches, monkeypatch, tmp_path, damage
):
    monkeypatch.setattr(sampling, "SECONDS", 0.0)
    unfinished = UnfinishedBatches(tmp_path, "diffusion")
    wanted = sampled(model, batches[:1])
    with monkeypatch.context() as patch:
        steps_taken(model, patch, 5)
        with pytest.raises(KillError):
            sampled(model, batches[:1], unfinished)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    found = batches[:1]
    if damage == "cut":
        file.write_bytes(content[:-40])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "other batch":
        found = [batches[0][:-1]]
        wanted = sampled(model, found)
    if damage == "other steps":
        state, _ = model.begin([draw.target for draw in batches[0]], STEPS - 1)
        assert unfinished.load(batches[0], STEPS - 1, state)[0] == 0
        return
    taken = steps_taken(model, monkeypatch)
    assert sampled(model, found, unfinished) == wanted
    assert taken == [STEPS]


def test_states_are_kept_every_while_and_go_with_their_pieces(
    model, batches, monkeypatch, tmp_path
):
    """By the clock, whatever a step takes: on a busy machine more often within a batch."""
    now = [0.0]

    def clock() -> float:
        now[0] += 1.5
        return now[0]

    kept = []
    monkeypatch.setattr(sampling.time, "monotonic", clock)
    monkeypatch.setattr(
        UnfinishedBatches, "save", lambda self, draws, steps, done, state: kept.append(done)
    )
    sampled(model, batches[:1], UnfinishedBatches(tmp_path, "diffusion"))
    assert np.diff([0, *kept, STEPS]).max() <= 3
    monkeypatch.undo()
    monkeypatch.setattr(sampling, "SECONDS", 0.0)
    record = {"request": {"kind": "test"}}
    with open_run(tmp_path / "run", record) as (folder, _):
        where = folder.unfinished("diffusion")
        for crystals in sample(model, batches, steps=STEPS, unfinished=where):
            assert list(folder.work.glob("state-*"))
            folder.add("diffusion", crystals)
            assert not list(folder.work.glob("state-*"))
