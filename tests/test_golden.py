"""Commands write today what they wrote before: see tests/golden/cases.py."""

import json

import cases
import pytest


@pytest.mark.parametrize("name", cases.CASES)
def test_results_are_what_they_were(name):
    expected = json.loads((cases.EXPECTED / f"{name}.json").read_text())
    assert cases.differences(cases.run(name), expected) == []


def test_differences_are_found():
    expected = json.loads((cases.EXPECTED / "sample_retrieval.json").read_text())
    other = json.loads(json.dumps(expected))
    other["table"][0]["density"] += 0.1
    other["structures"][1]["lattice"][0] += 0.1
    assert len(cases.differences(other, expected)) == 2
