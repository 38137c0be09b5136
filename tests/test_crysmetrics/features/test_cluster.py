import os
import signal
import sqlite3
import threading
import time

import numpy as np
import pytest
from sets import random_crystals

import crysmetrics
from crysmetrics.errors import UserError
from crysmetrics.features import cluster
from crysmetrics.features.cache import open_cache
from crysmetrics.features.extractor import Extractor, Run
from crysmetrics.features.registry import get_extractor
from crysmetrics.features.sample import Sample

distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """A cluster of two worker processes."""
    environment = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with (
        pytest.MonkeyPatch.context() as patch,
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            env=environment,
            local_directory=str(tmp_path_factory.mktemp("dask")),
        ) as local,
    ):
        patch.setattr(cluster, "ATOMS_PER_TASK", 8)
        yield local.scheduler_address
        cluster._client(local.scheduler_address).close()
        cluster._client.cache_clear()


def test_cluster_computes_what_this_machine_does(scheduler):
    crystals = random_crystals(20, 1)
    here = Sample(crystals, "gen")
    there = Sample(crystals, "gen", run=Run(dask=scheduler))
    for name in ("crystalnn", "magpie", "space_group"):
        np.testing.assert_array_equal(there.features(name).values, here.features(name).values)
        assert there.features(name).failures == here.features(name).failures
        assert there.extractors[name].hash == here.extractors[name].hash


def test_a_killed_worker_loses_nothing(scheduler, tmp_path, monkeypatch):
    crystals = random_crystals(40, 2, atoms=(2, 3))
    client = cluster._client(scheduler)
    before = client.run(os.getpid)
    killed = []
    finished = threading.Event()

    def kill_one():
        # In the midst of it: some parts are done, and the victim is busy with one.
        while not finished.is_set():
            busy = [address for address, keys in client.processing().items() if keys]
            if busy and done:
                os.kill(before[busy[0]], signal.SIGKILL)
                killed.append(busy[0])
                return
            time.sleep(0.01)

    done = []
    real = cluster.task

    def noticing(description, total):
        context = real(description, total)

        class Noticing:
            def __enter__(self):
                advance = context.__enter__()
                return lambda count: (done.append(count), advance(count))

            def __exit__(self, *error):
                return context.__exit__(*error)

        return Noticing()

    monkeypatch.setattr(cluster, "task", noticing)
    thread = threading.Thread(target=kill_one)
    thread.start()
    cache = open_cache(str(tmp_path / "cache"))
    sample = Sample(crystals, "gen", run=Run(dask=scheduler, cache=cache))
    try:
        found = sample.features("alignn")
    finally:
        finished.set()
        thread.join()
    assert killed, "the work was over before a worker could be killed"
    expected = Sample(crystals, "gen").features("alignn")
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-5, atol=1e-5)
    assert found.failures == expected.failures
    assert sum(done) == 40
    with sqlite3.connect(tmp_path / "cache" / "features-2.sqlite") as connection:
        assert connection.execute("SELECT COUNT(*) FROM features").fetchone() == (40,)


def test_evaluate_on_a_cluster(scheduler):
    gen, ref = random_crystals(20, 3), random_crystals(20, 4)
    metrics = ["validity", "coverage", "frechet_crystalnn"]
    there = crysmetrics.evaluate(gen, ref, metrics=metrics, dask=scheduler, cache="off")
    here = crysmetrics.evaluate(gen, ref, metrics=metrics, cache="off")
    documents = [report.as_json() for report in (there, here)]
    for document in documents:
        document.pop("timing")
    assert documents[0] == documents[1]


def test_failures_keep_their_structures(scheduler):
    crystals = random_crystals(12, 5)
    numbers = crystals.atomic_numbers.copy()
    numbers[crystals.offsets[7]] = 118  # no covalent radius
    sample = Sample(
        crysmetrics.Crystals(
            numbers, crystals.frac_coords, crystals.lattices, crystals.num_atoms, crystals.ids
        ),
        "gen",
        run=Run(dask=scheduler),
    )
    assert 7 in sample.features("crystalnn").failures
    assert np.isnan(sample.features("crystalnn").values[7]).all()
    assert [name for name, _ in sample.failed_features()] == [crystals.ids[7]]


def test_no_cluster_is_one_sentence(monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", "1s")
    with pytest.raises(UserError, match="no Dask cluster at"):
        Sample(random_crystals(2), "gen", run=Run(dask="tcp://127.0.0.1:9")).features("crystalnn")


def test_other_versions_are_refused(scheduler, monkeypatch):
    extractor = get_extractor("crystalnn", Run())
    other = Extractor("crystalnn", "another version", extractor.labels, extractor.compute)
    spread = cluster.spread(other, Run(dask=scheduler))
    with pytest.raises(UserError, match="install the same version"):
        spread.compute(random_crystals(3), None)
