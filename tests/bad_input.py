"""What tests of bad input share: a good structure, and what `read` says."""

from __future__ import annotations

from pathlib import Path

import pytest
from sets import rocksalt

from crysmetrics.errors import InputError
from crysmetrics.io import read
from crysmetrics.io.formats.cif import p1_cif

GOOD = p1_cif(rocksalt())
no_thread_dies = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


def reason_beside_good(folder: Path, name: str) -> str:
    """The reason for the one failure of a folder that also holds one good file."""
    (folder / "good.cif").write_text(GOOD)
    crystals = read(folder)
    assert crystals.ids == ("good",)
    ((file, reason),) = crystals.failures
    assert file == name
    assert "\n" not in reason
    assert not reason.endswith(".")
    return reason


def sentence(path: Path | str, **options: object) -> str:
    """What `read` has to say about something that can't be used at all."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 500
    return text
