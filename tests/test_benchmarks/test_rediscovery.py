"""The benchmark of rediscovery: which structures, what is kept, and what is found."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from places import ROOT

from crysgen.training.site_data import NUM_SITES, SPACE_GROUP
from crysmetrics.io import Crystals

sys.path.insert(0, str(ROOT / "benchmarks"))

import rediscovery

GROUPS = (1, 2, 14, 15, 62, 63, 123, 136, 148, 166, 194, 221, 225, 227)


def rock_salts(groups: list[int], split: str, source: str) -> Crystals:
    """Rock salt, again and again, under the names of different groups."""
    lattice = 2.82 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0.0]])
    count = len(groups)
    return Crystals(
        np.tile([11, 17], count),
        np.tile([[0, 0, 0], [0.5, 0.5, 0.5]], (count, 1)),
        np.tile(lattice, (count, 1, 1)),
        np.full(count, 2),
        [f"{source}/{split}-{i}" for i in range(count)],
        {
            SPACE_GROUP: np.array(groups),
            NUM_SITES: np.full(count, 2),
            "split": np.full(count, split, dtype="<U5"),
        },
    )


def test_six_of_each_family_are_drawn_of_what_is_known_and_held_out() -> None:
    many = [group for group in GROUPS for _ in range(10)]
    sets = [("val", "mpts52_val"), ("train", "mpts52_val"), ("val", "mp20_val")]
    crystals = Crystals.concatenate([rock_salts(many, *each) for each in sets])
    found = rediscovery.drawn(crystals)
    families = [rediscovery.family_of(int(n)) for n in found.properties[SPACE_GROUP]]
    assert [families.count(name) for name in rediscovery.FAMILIES] == [6] * 6
    assert len(set(found.ids)) == 36
    assert all(name.startswith("mpts52_val/val-") for name in found.ids)
    assert found.ids == rediscovery.drawn(crystals).ids


def test_a_run_goes_on_where_it_ended_and_counts_what_matches(tmp_path: Path) -> None:
    # The second one is asked for in a group in which no such structure is known.
    rock_salts([225, 187], "val", "mpts52_test").save(tmp_path / "packed.npz")
    out = tmp_path / "out"
    call = [str(tmp_path / "packed.npz"), "-o", str(out), "--method", "retrieval", "--samples", "3"]
    done = CliRunner().invoke(rediscovery.main, call)
    assert done.exit_code == 0, done.output
    assert "| retrieval | 2 | 1 | 0 | 0 | 0 | 0 | 0 | 1 | 1 | 1 |" in done.output
    path = out / "retrieval" / "mpts52_test_val-0.json"
    kept = json.loads(path.read_text())
    assert kept["matched"][0]
    path.write_text(json.dumps(kept | {"matched": [False]}))
    again = CliRunner().invoke(rediscovery.main, call)
    assert "| retrieval | 2 | 0 |" in again.output
