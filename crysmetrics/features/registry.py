"""The extractors that there are, by the name of their features and their backend."""

from __future__ import annotations

from importlib import import_module

from crysmetrics.errors import UserError
from crysmetrics.features.extractor import DEFAULT_BACKEND, Extractor, Run

_MODULES: dict[tuple[str, str], str] = {
    ("crystalnn", "native"): "crysmetrics.features.crystalnn",
    ("magpie", "native"): "crysmetrics.features.magpie",
    ("cgcnn", "native"): "crysmetrics.features.cgcnn",
    ("alignn", "native"): "crysmetrics.features.alignn.extractor",
    ("space_group", "native"): "crysmetrics.features.symmetry",
    ("alignn", "alignn-dgl"): "crysmetrics.features.alignn.dgl",
    ("crystalnn", "matminer"): "crysmetrics.features.matminer_backend",
    ("magpie", "matminer"): "crysmetrics.features.matminer_backend",
}
BACKENDS = tuple(dict.fromkeys(backend for _, backend in _MODULES))
FEATURES = tuple(dict.fromkeys(name for name, _ in _MODULES))


def get_extractor(name: str, run: Run | None = None) -> Extractor:
    """The extractor of this name.

    Raises:
        UserError: if there is no such feature or backend.
    """
    run = run or Run()
    if name not in FEATURES:
        raise UserError(f"There are no features {name!r}; known are {', '.join(FEATURES)}.")
    if run.backend not in BACKENDS:
        raise UserError(f"There is no backend {run.backend!r}; known are {', '.join(BACKENDS)}.")
    module = _MODULES.get((name, run.backend)) or _MODULES[name, DEFAULT_BACKEND]
    extractor: Extractor = import_module(module).extractor(name, run)
    if run.dask is not None:
        from crysmetrics.features.cluster import spread

        return spread(extractor, run)
    return extractor
