"""Sampling with the network in 16 bits, and everything else in full precision."""

from __future__ import annotations

import pytest
import torch
from sets import random_crystals
from small_gemsdiff import SMALL

import crysgen.sampling
from crysgen.models.gemsdiff import GemsDiff
from crysgen.models.gemsdiff_config import GemsDiffConfig
from crysgen.models.targets import Target
from crysgen.networks.precision import sampling_in_16_bits
from crysgen.requests import Draw
from crysgen.training.batch import Batch

TARGETS = [Target(i, atoms) for i, atoms in enumerate([(3, 8, 8), (11, 17), (22, 8, 8, 56)])]
CONFIG = GemsDiffConfig(**SMALL, position_process="flow")


@pytest.fixture(params=[torch.float32, torch.float64])
def model(request) -> GemsDiff:
    torch.manual_seed(0)
    batch = Batch.from_crystals(random_crystals(8), request.param)
    return GemsDiff(GemsDiff.fitted(CONFIG, batch)).to(request.param).eval()


def test_networks_of_32_bits_sample_in_16_where_asked(model, monkeypatch):
    in_network, outside = [], []

    def watch(part, name, seen):
        real = getattr(part, name)

        def watched(*given, **named):
            seen.append(torch.is_autocast_enabled("cpu"))
            return real(*given, **named)

        monkeypatch.setattr(part, name, watched)

    watch(model.network, "forward", in_network)
    watch(model, "_decoded", outside)
    expected = model.sample(TARGETS, 4)
    with sampling_in_16_bits():
        rough = model.sample(TARGETS, 4)
    again = model.sample(TARGETS, 4)
    is_single = next(model.parameters()).dtype == torch.float32
    assert in_network == [False] * 4 + [is_single] * 4 + [False] * 4
    assert outside == [False] * 12
    assert torch.equal(again.lattices, expected.lattices)
    assert torch.equal(rough.lattices, expected.lattices) != is_single
    torch.testing.assert_close(rough.lattices, expected.lattices, rtol=0.05, atol=0.2)
    gap = rough.frac_coords - expected.frac_coords
    assert (gap - gap.round()).abs().max() < 0.05


@pytest.mark.parametrize(("generation", "is_rough"), [(7, False), (9, True)])
def test_gpus_that_can_sample_in_16_bits(generation, is_rough, monkeypatch):
    torch.manual_seed(0)
    batch = Batch.from_crystals(random_crystals(8), torch.float32)
    model = GemsDiff(GemsDiff.fitted(CONFIG, batch)).eval()
    draws = [Draw(i, i, target, i, 0) for i, target in enumerate(TARGETS)]
    expected = next(crysgen.sampling.sample(model, [draws], steps=4))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (generation, 0))
    found = next(crysgen.sampling.sample(model, [draws], steps=4, device="cuda"))
    assert (found.lattices != expected.lattices).any() == is_rough
