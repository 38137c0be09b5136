"""Published weights: fetched once, checked afterwards, never more than tensors. No network."""

import hashlib
import io
import json
import threading
import zipfile
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pytest
import torch

from crysmetrics.errors import UserError
from crysmetrics.features.alignn import published
from crysmetrics.features.alignn.extractor import (
    evaluate,
    extractor,
    formation_energies,
)
from crysmetrics.features.alignn.network import ALIGNN
from crysmetrics.features.alignn.weights import load_weights
from crysmetrics.features.extractor import Run

NAME = "mp_e_form_alignn"


class Hostile:
    """What a pickle can do: here, harmlessly, make a list."""

    def __reduce__(self):
        return list, ()


def archive(checkpoint=None, entries=None):
    """A zip like NIST's, with one checkpoint, as bytes."""
    if checkpoint is None:
        torch.manual_seed(0)
        checkpoint = {"model": ALIGNN().state_dict(), "trainer": {"epoch": 300}}
    raw = io.BytesIO()
    torch.save(checkpoint, raw)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for name in entries or (f"{NAME}/config.json", f"{NAME}/checkpoint_300.pt"):
            zipped.writestr(name, raw.getvalue() if name.endswith(".pt") else "{}")
    return file.getvalue()


@pytest.fixture(scope="module")
def good():
    return archive()


@pytest.fixture
def server(tmp_path):
    """A web server on this machine; yields its folder and address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path / "web"
    folder.mkdir()
    http = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{http.server_port}/model"
    http.shutdown()
    thread.join()
    http.server_close()


def test_downloaded_once_and_used(good, server, tmp_path, monkeypatch):
    web, address = server
    (web / "model").write_bytes(good)
    cache = tmp_path / "cache"
    monkeypatch.setenv("CRYSMETRICS_CACHE", str(cache))
    here = published.PUBLISHED[NAME]._replace(address=address)
    # The name is known to other modules by this same table.
    monkeypatch.setitem(published.PUBLISHED, NAME, here)
    loaded = load_weights(NAME)
    assert loaded.sha256 == hashlib.sha256(good).hexdigest()
    assert loaded.gives_energy
    record = json.loads((cache / "alignn" / "published.json").read_text())[NAME]
    assert (record["sha256"], record["address"]) == (loaded.sha256, address)
    (web / "model").unlink()
    from sets import rocksalt

    features, energies, failures = evaluate(rocksalt(), weights=NAME)
    assert not failures
    torch.manual_seed(0)
    assert torch.equal(loaded.network.fc.weight, ALIGNN().fc.weight)
    assert extractor("alignn", Run(alignn=NAME)).parameters["weights_sha256"] == loaded.sha256
    assert formation_energies(rocksalt(), weights=NAME)[0] == energies
    assert features.shape == (1, 256)


def test_another_content_is_refused(good, server, tmp_path):
    web, address = server
    (web / "model").write_bytes(good)
    path = published.published_file(NAME, tmp_path, address)
    path.write_bytes(good + b"x")
    with pytest.raises(UserError, match="was recorded"):
        published.published_file(NAME, tmp_path, address)
    path.unlink()
    (web / "model").write_bytes(archive({"model": {"fc.weight": torch.ones(1)}}))
    with pytest.raises(UserError, match="was recorded"):
        published.published_file(NAME, tmp_path, address)
    assert not path.exists()
    (web / "model").write_bytes(good)
    assert published.published_file(NAME, tmp_path, address) == path


def test_a_file_by_file_address(good, tmp_path):
    (tmp_path / "model.zip").write_bytes(good)
    address = (tmp_path / "model.zip").as_uri()
    path = published.published_file(NAME, tmp_path / "cache", address)
    assert path.read_bytes() == good


def test_offline_is_one_clear_sentence(tmp_path, server):
    address = server[1]
    for wrong in (address, "http://127.0.0.1:9/model", "file:///nowhere/model.zip"):
        with pytest.raises(UserError, match=f"{NAME} are not in the cache and can't be") as error:
            published.published_file(NAME, tmp_path / "cache", wrong)
        assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").glob("*.zip"))


@pytest.mark.parametrize(
    "outside", ["../checkpoint_1.pt", "/checkpoint_1.pt", "a\\..\\..\\b.pt", "C:/x.pt"]
)
def test_paths_that_lead_outside_are_refused(outside):
    data = archive({"model": {}}, [outside, "checkpoint_300.pt"])
    with pytest.raises(UserError, match="outside"):
        published.state_from_zip(NAME, data)


def test_only_tensors_are_read():
    with pytest.raises(UserError, match="not tensors alone"):
        published.state_from_zip(NAME, archive({"model": Hostile()}))
    with pytest.raises(UserError, match="no weights"):
        published.state_from_zip(NAME, archive({"model": {}}))
    with pytest.raises(UserError, match="no checkpoint"):
        published.state_from_zip(NAME, archive({"model": {}}, ["config.json"]))
    with pytest.raises(UserError, match="no intact zip"):
        published.state_from_zip(NAME, b"nonsense")


def test_the_last_checkpoint_is_taken():
    entries = [
        zipfile.ZipInfo(name)
        for name in ("a/checkpoint_50.pt", "a/checkpoint_300.pt", "a/checkpoint_299.pt", "a/x.txt")
    ]
    assert published._checkpoint(NAME, entries).filename == "a/checkpoint_300.pt"
    entries.append(zipfile.ZipInfo("a/best_model.pt"))
    assert published._checkpoint(NAME, entries).filename == "a/best_model.pt"


def test_something_other_than_energies_is_not_given_as_one(good, tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSMETRICS_CACHE", str(tmp_path))
    folder = tmp_path / "alignn"
    folder.mkdir()
    (folder / "mp_gappbe_alignn.zip").write_bytes(good)
    from sets import rocksalt

    with pytest.raises(UserError, match="do not predict formation energies"):
        formation_energies(rocksalt(), weights="mp_gappbe_alignn")
    features, energies, failures = evaluate(rocksalt(), weights="mp_gappbe_alignn")
    assert not failures
    assert energies != energies
    assert (features == features).all()
