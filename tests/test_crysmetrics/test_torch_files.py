"""Files of PyTorch give tensors and plain containers, whatever other packages have allowed."""

import pickle
from fractions import Fraction

import pytest

torch = pytest.importorskip("torch")

from crysmetrics.torch_files import load_tensors  # noqa: E402


class Harmless:
    """Makes a fraction when it is unpickled, as a stand-in for anything at all."""

    def __reduce__(self):
        return Fraction, (1, 2)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"tensor": torch.ones(2), "other": Harmless()}, path)
    return path


def test_tensors_in_containers_are_read(tmp_path):
    torch.save({"a": [torch.arange(3)], "b": ("text", 1.5)}, tmp_path / "x.pt")
    found = load_tensors(tmp_path / "x.pt")
    assert found["a"][0].tolist() == [0, 1, 2]
    assert found["b"] == ("text", 1.5)


def test_what_others_have_allowed_is_refused_here_and_stays_allowed_there(file):
    with torch.serialization.safe_globals([Fraction]):
        assert torch.load(file, weights_only=True)["other"] == Fraction(1, 2)
        with pytest.raises(pickle.UnpicklingError):
            load_tensors(file)
        assert Fraction in torch.serialization.get_safe_globals()


def test_what_is_named_is_built(file):
    assert load_tensors(file, [Fraction])["other"] == Fraction(1, 2)
    with pytest.raises(pickle.UnpicklingError):
        load_tensors(file)
