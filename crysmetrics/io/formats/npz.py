"""Packed Crystals: see `crysmetrics.io.packed`."""

from __future__ import annotations

from crysmetrics.io.crystals import Crystals
from crysmetrics.io.formats.base import Format
from crysmetrics.io.packed import save

FORMAT = Format(
    name="npz",
    title="NumPy arrays",
    suffixes=(".npz",),
    load=Crystals.load,
    save=save,
    note="packed, loss-free, failures included",
)
