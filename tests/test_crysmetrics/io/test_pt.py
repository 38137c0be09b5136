"""`.pt` files of CDVAE and DiffCSP: tensors of a generated set, and nothing that runs."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bad_input import sentence

from crysmetrics.io import read

torch = pytest.importorskip("torch")


def generated(evaluations: int | None = None) -> dict[str, object]:
    """Rock salt, of 2 and of 4 atoms, as CDVAE and DiffCSP save it."""
    half = [0.5, 0.5, 0.5]
    frac = torch.tensor([[0, 0, 0], half, [0, 0, 0], [0.5, 0, 0], half, [0, 0.5, 0.5]])
    found = {
        "frac_coords": frac,
        "atom_types": torch.tensor([11, 17, 11, 17, 17, 11]),
        "num_atoms": torch.tensor([2, 4]),
        "lengths": torch.tensor([[3.988] * 3, [3.988, 3.988, 5.64]]),
        "angles": torch.tensor([[60.0] * 3, [90.0] * 3]),
    }
    if evaluations is None:
        return found
    return {key: torch.stack([value] * evaluations) for key, value in found.items()}


@pytest.mark.parametrize("name", ["eval_gen.pt", "eval_recon.pt", "eval_diff_run1.PT", "x.y.pth"])
@pytest.mark.parametrize("evaluations", [None, 1, 3])
def test_sets(tmp_path, name, evaluations):
    settings = argparse.Namespace(model_path="x", n_step_each=100)
    torch.save({"eval_setting": settings, **generated(evaluations), "time": 3.5}, tmp_path / name)
    crystals = read(tmp_path / name)
    ids = ["0", "1"]
    if evaluations == 3:
        ids = [f"{e}/{k}" for e in range(3) for k in ids]
    assert list(crystals.ids) == ids
    assert crystals.num_atoms.tolist() == [2, 4] * (evaluations or 1)
    assert crystals.atomic_numbers.tolist() == [11, 17, 11, 17, 17, 11] * (evaluations or 1)
    np.testing.assert_allclose(
        crystals.volumes[:2], [3.988**3 / 2**0.5, 3.988**2 * 5.64], rtol=1e-5
    )


def test_scores_of_elements_are_read_as_the_likeliest(tmp_path):
    found = generated(1)
    found["atom_types"] = torch.nn.functional.one_hot(found["atom_types"] - 1, 100).float()
    torch.save(found, tmp_path / "x.pt")
    assert read(tmp_path / "x.pt").atomic_numbers.tolist() == [11, 17, 11, 17, 17, 11]


def test_lattices_instead_of_lengths_and_angles(tmp_path):
    found = generated()
    del found["lengths"], found["angles"]
    found["lattices"] = torch.stack([torch.eye(3) * 4, torch.eye(3) * 5])
    torch.save(found, tmp_path / "x.pt")
    np.testing.assert_allclose(read(tmp_path / "x.pt").volumes, [64, 125])


def test_structures_that_are_none_have_their_reasons(tmp_path):
    found = generated()
    found["lengths"][0, 1] = -1
    torch.save(found, tmp_path / "x.pt")
    crystals = read(tmp_path / "x.pt")
    assert crystals.ids == ("1",)
    assert crystals.failures == (
        ("x.pt structure 0", "has a cell length that is not positive (-1 Å)"),
    )


class Batch:
    """What PyTorch Geometric's batches are for pickle: a class of another package, with state."""

    def __init__(self) -> None:
        self.store = {"frac_coords": torch.zeros(4, 3), "names": ["a"]}


class BatchGetter:
    def __call__(self, *bases: type) -> Batch:
        return Batch()


def test_no_class_is_imported_for_what_else_is_inside(tmp_path, monkeypatch):
    module = types.ModuleType("torch_geometric")
    module.Batch, module.BatchGetter = Batch, BatchGetter
    monkeypatch.setattr(Batch, "__module__", "torch_geometric")
    monkeypatch.setattr(BatchGetter, "__module__", "torch_geometric")
    monkeypatch.setattr(
        Batch, "__reduce__", lambda self: (BatchGetter(), (Batch,), self.__dict__), raising=False
    )
    monkeypatch.setitem(sys.modules, "torch_geometric", module)
    torch.save({"input_data_batch": Batch(), **generated()}, tmp_path / "x.pt")
    made = []
    monkeypatch.setattr(Batch, "__new__", lambda cls, *_: made.append(cls) or object.__new__(cls))
    monkeypatch.setattr(BatchGetter, "__call__", lambda *_: made.append("called"))
    monkeypatch.delitem(sys.modules, "torch_geometric")
    assert len(read(tmp_path / "x.pt")) == 2
    assert made == []
    assert "torch_geometric" not in sys.modules


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_nothing_is_run(tmp_path):
    torch.save({**generated(), "x": Evil(tmp_path / "run")}, tmp_path / "x.pt")
    assert "asks for 'posix.system', which is no data; refused" in sentence(tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(pickle.dumps(Evil(tmp_path / "run")))
    assert "is not as torch.save has written it since PyTorch 1.6" in sentence(tmp_path / "y.pt")
    assert not (tmp_path / "run").exists()


def saved(data: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(data, buffer, **options)
    return buffer.getvalue()


def compressed(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", 8) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    return buffer.getvalue()


def without(key: str) -> dict[str, object]:
    return {k: v for k, v in generated().items() if k != key}


BAD = {
    "empty": (b"", "is not as torch.save has written it"),
    "text": (b"hello", "is not as torch.save has written it"),
    "old": (
        saved(generated(), _use_new_zipfile_serialization=False),
        "is not as torch.save has written it since PyTorch 1.6",
    ),
    "truncated": (saved(generated())[:-300], "is not as torch.save has written it"),
    "compressed": (compressed(saved(generated())), "is compressed, as torch.save never writes it"),
    "weights": (saved(collections.OrderedDict(w=torch.zeros(3))), "holds no frac_coords"),
    "a tensor": (saved(torch.zeros(3)), "holds a Tensor, not the arrays of a set"),
    "no angles": (saved(without("angles")), "holds no frac_coords, atom_types, num_atoms, lengths"),
    "text for a tensor": (saved({**generated(), "angles": "ninety"}), "that are no plain tensor"),
    "sparse": (
        saved({**generated(), "frac_coords": torch.zeros(6, 3).to_sparse()}),
        "which is no data; refused",
    ),
    "too few atoms": (
        saved({**generated(), "atom_types": torch.tensor([11, 17])}),
        "holds arrays that do not fit together (frac_coords (6, 3), atom_types (2,)",
    ),
    "negative counts": (saved({**generated(), "num_atoms": torch.tensor([8, -2])}), "do not fit"),
    "half atoms": (
        saved({**generated(), "num_atoms": torch.tensor([2.5, 3.5])}),
        "has num_atoms that are not all whole numbers",
    ),
    "half elements": (
        saved({**generated(), "atom_types": torch.full((6,), 8.7)}),
        "has atom_types that are not all whole numbers",
    ),
    "elements beyond all bounds": (
        saved({**generated(), "atom_types": torch.full((6,), 1e300, dtype=torch.float64)}),
        "has atom_types that are not all whole numbers, or too large",
    ),
    "many atoms of one": (
        saved({**generated(), "frac_coords": torch.zeros(1, 3).expand(10**9, 3)}),
        "larger than their own storage; refused",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_files_that_are_refused(tmp_path, kind):
    data, reason = BAD[kind]
    (tmp_path / "x.pt").write_bytes(data)
    assert reason in sentence(tmp_path / "x.pt")
