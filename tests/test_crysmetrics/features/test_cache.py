import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest
from sets import random_crystals

from crysmetrics.errors import UserError
from crysmetrics.features.cache import FeatureCache, open_cache
from crysmetrics.features.extractor import Extractor, Run
from crysmetrics.features.sample import extract
from crysmetrics.io import Crystals


def counting_extractor(version="1", fail=()):
    """An extractor that notes how many structures it was asked for."""
    asked: list[int] = []

    def compute(crystals: Crystals, workers):
        asked.append(len(crystals))
        values = np.stack([crystals.volumes, crystals.num_atoms.astype(float)], axis=1)
        failures = {i: "made to fail" for i, name in enumerate(crystals.ids) if name in fail}
        values[list(failures)] = np.nan
        return values, failures

    return Extractor("test", version, ("a", "b"), compute), asked


def test_what_is_known_is_read_not_computed(tmp_path):
    crystals, cache = random_crystals(20), FeatureCache(tmp_path)
    extractor, asked = counting_extractor(fail=("random-0-3",))
    first = extract(extractor, crystals[:12], Run(cache=cache))
    second = extract(extractor, crystals, Run(cache=cache))
    third = extract(extractor, crystals, Run(cache=FeatureCache(tmp_path)))
    assert asked == [12, 8]
    assert np.array_equal(second.values, third.values, equal_nan=True)
    assert np.array_equal(first.values, second.values[:12], equal_nan=True)
    assert second.failures == third.failures == {3: "made to fail"}
    assert second.ok.sum() == 19


def test_key_is_content_and_version_not_id(tmp_path):
    crystals, cache = random_crystals(5), FeatureCache(tmp_path)
    extractor, asked = counting_extractor()
    extract(extractor, crystals, Run(cache=cache))
    extract(extractor, crystals.with_ids([f"other-{i}" for i in range(5)]), Run(cache=cache))
    assert asked == [5]
    newer, asked_newer = counting_extractor("2")
    extract(newer, crystals, Run(cache=cache))
    assert asked_newer == [5]
    moved = crystals.frac_coords.copy()
    moved[0, 0] += 1e-12
    changed = Crystals(
        crystals.atomic_numbers, moved, crystals.lattices, crystals.num_atoms, crystals.ids
    )
    extract(extractor, changed, Run(cache=cache))
    assert asked == [5, 1]


def test_equal_structures_are_computed_once(tmp_path):
    one = random_crystals(1)
    many = Crystals.concatenate([one.with_ids([str(i)]) for i in range(7)])
    extractor, asked = counting_extractor()
    found = extract(extractor, many, Run(cache=FeatureCache(tmp_path)))
    assert asked == [1]
    assert (found.values == found.values[0]).all()


def test_interrupted_work_is_kept(tmp_path):
    crystals, cache = random_crystals(20), FeatureCache(tmp_path)
    extractor, asked = counting_extractor()
    extractor = replace(extractor, batch=5)
    counted = extractor.compute

    def interrupted(part, workers):
        if len(asked) == 2:
            raise KeyboardInterrupt
        return counted(part, workers)

    stopping = replace(extractor, compute=interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(stopping, crystals, Run(cache=cache))
    extract(extractor, crystals, Run(cache=cache))
    assert asked == [5, 5, 5, 5]


def test_size_is_bounded_and_the_oldest_go(tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path, max_bytes=300_000)
    for k in range(20):
        monkeypatch.setattr(time, "time", lambda k=k: 1e9 + 1e6 * k)
        keys = [f"{1000 * k + i:064x}" for i in range(50)]
        cache.put("x 1", keys, np.zeros((50, 100)), {})
    assert cache.info().size <= 330_000
    assert not cache.get("x 1", [f"{0:064x}"], 100)
    assert cache.get("x 1", [f"{19_000:064x}"], 100)


def test_damaged_file_is_replaced(tmp_path, caplog):
    cache = FeatureCache(tmp_path)
    cache.path.write_bytes(b"this is no database" * 100)
    extractor, _ = counting_extractor()
    extract(extractor, random_crystals(3), Run(cache=cache))
    assert "damaged" in caplog.text
    assert sum(FeatureCache(tmp_path).info().entries.values()) == 3


DAMAGES = {
    "a flipped bit": "substr(payload, 1, 4) || x'40' || substr(payload, 6)",
    "another first byte": "x'72' || substr(payload, 2)",
    "a short row": "substr(payload, 1, 9)",
    "a long row": "payload || x'0000000000000000'",
    "half a number": "substr(payload, 1, 12)",
    "an empty row": "x''",
    "text": "'nan'",
    "a number": "7",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_rows_are_computed_anew_and_said_once(tmp_path, caplog, damage):
    crystals, extractor = random_crystals(8), counting_extractor()[0]
    expected = extract(extractor, crystals, Run(cache=FeatureCache(tmp_path))).values
    with sqlite3.connect(FeatureCache(tmp_path).path) as connection:
        connection.execute(
            f"UPDATE features SET payload = {damage} WHERE key IN "
            "(SELECT key FROM features ORDER BY key LIMIT 3)"
        )
    connection.close()
    again, asked = counting_extractor()
    cache = FeatureCache(tmp_path)
    assert np.array_equal(extract(again, crystals, Run(cache=cache)).values, expected)
    assert asked == [3]
    assert caplog.text.count("damaged rows; they are computed anew") == 1
    caplog.clear()
    assert np.array_equal(extract(again, crystals, Run(cache=cache)).values, expected)
    assert asked == [3]
    assert not caplog.text


def test_rows_of_another_structure_or_width_are_damaged(tmp_path):
    cache = FeatureCache(tmp_path)
    a, b = (f"{i:064x}" for i in range(2))
    cache.put("x 1", [a, b], np.arange(6.0).reshape(2, 3), {})
    with sqlite3.connect(cache.path) as connection:
        connection.execute(
            "UPDATE features SET (payload, checksum) = "
            "(SELECT payload, checksum FROM features WHERE key = ?) WHERE key = ?",
            [bytes.fromhex(a), bytes.fromhex(b)],
        )
    connection.close()
    assert list(cache.get("x 1", [a, b], 3)) == [a]
    assert not cache.get("x 1", [a, b], 2)


@pytest.mark.parametrize("seed", range(3))
def test_no_flipped_bits_in_the_file_change_a_number(tmp_path, caplog, seed):
    """Whatever is hit, be it SQLite's own pages: features are right, and the third run is clean."""
    crystals, extractor = random_crystals(60), counting_extractor()[0]
    expected = extract(extractor, crystals, Run(cache=FeatureCache(tmp_path))).values
    whole = FeatureCache(tmp_path).path.read_bytes()
    rng = np.random.default_rng(seed)
    for _ in range(12):
        broken = bytearray(whole)
        for place in rng.integers(len(broken), size=rng.integers(1, 40)):
            broken[place] ^= 1 << rng.integers(8)
        FeatureCache(tmp_path).path.write_bytes(broken)
        for _ in range(3):
            caplog.clear()
            found = extract(extractor, crystals, Run(cache=FeatureCache(tmp_path)))
            assert np.array_equal(found.values, expected)
            assert not found.failures
            FeatureCache(tmp_path).info()
        assert not caplog.text


def test_files_of_other_layouts_are_no_obstacle(tmp_path):
    old = tmp_path / "features-1.sqlite"
    for path in (old, FeatureCache(tmp_path).path):
        with sqlite3.connect(path) as connection:
            connection.execute(
                "CREATE TABLE features (extractor TEXT, key BLOB, value BLOB, reason TEXT, "
                "used INTEGER, PRIMARY KEY (extractor, key)) WITHOUT ROWID"
            )
        connection.close()
    before = old.read_bytes()
    extractor, asked = counting_extractor()
    for _ in range(2):
        extract(extractor, random_crystals(3), Run(cache=FeatureCache(tmp_path)))
    assert asked == [3]
    assert old.read_bytes() == before
    FeatureCache(tmp_path).clear()
    assert not list(tmp_path.iterdir())


def test_unusable_folder_costs_time_not_results(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = FeatureCache(tmp_path / "file" / "below")
    extractor, asked = counting_extractor()
    found = extract(extractor, random_crystals(3), Run(cache=cache))
    assert asked == [3]
    assert np.isfinite(found.values).all()
    assert "no cache" in caplog.text
    with pytest.raises(UserError, match="folder or off"):
        open_cache(str(tmp_path / "file"))
    assert open_cache("off") is None


WRITER = """
    import sys
    import numpy as np
    from crysmetrics.features.cache import FeatureCache
    cache, worker = FeatureCache(sys.argv[1]), int(sys.argv[2])
    print("ready", flush=True)
    for k in range(10_000 if worker < 0 else 40):
        keys = [f"{i:064x}" for i in range(20 * k, 20 * k + 40)]
        cache.put("x 1", keys, np.full((40, 61), float(k)), {})
"""


def start_writer(folder, worker):
    code = textwrap.dedent(WRITER)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(worker)], stdout=subprocess.PIPE, text=True
    )


def test_concurrent_writers(tmp_path):
    writers = [start_writer(tmp_path, k) for k in range(3)]
    assert [w.wait(timeout=120) for w in writers] == [0, 0, 0]
    known = FeatureCache(tmp_path).get("x 1", [f"{i:064x}" for i in range(820)], 61)
    assert len(known) == 820
    assert all(value.shape == (61,) and len(set(value)) == 1 for value, _ in known.values())


def test_killed_writer_leaves_a_sound_cache(tmp_path):
    writer = start_writer(tmp_path, -1)
    writer.stdout.readline()
    time.sleep(0.5)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    cache = FeatureCache(tmp_path)
    cache.put("x 1", [f"{10**9:064x}"], np.ones((1, 61)), {})
    assert cache.get("x 1", [f"{10**9:064x}"], 61)
    assert sum(cache.info().entries.values()) % 20 == 1  # whole transactions only
