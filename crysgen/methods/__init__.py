"""Methods: what turns asked compositions into candidate crystals.

A method divides its work into pieces with names, so that an interrupted run goes on with those
that are missing, and yields the candidates of finished pieces as Crystals. Ranking and output know
nothing of where a candidate came from but its properties. Adding a method touches one module and
the table here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from crysmetrics.errors import UserError
from crysmetrics.packages import require

if TYPE_CHECKING:
    from crysgen.requests import Asked
    from crysgen.settings import Machine, Settings
    from crysmetrics.io import Crystals
    from crysmetrics.progress import Advance

METHODS: dict[str, tuple[str, ...]] = {
    "auto": ("retrieval", "diffusion"),
    "retrieval": ("retrieval",),
    "diffusion": ("diffusion",),
    "refine": ("refine",),
}
"""What `--method` takes: the methods whose candidates are ranked together."""

_MODULES = {name: f"crysgen.methods.{name}" for name in ("retrieval", "diffusion", "refine")}

CANDIDATE_PROPERTIES = ("asked", "method", "prototype_id", "score", "seed", "redrawn")
"""Properties of candidates: position of the asked composition, name of the method, id of the known
structure it came from ("" if none), the method's own score (NaN if none; higher is better), the
structure's seed, and how many draws before it were no crystals."""


class Method(Protocol):
    """One source of candidates, for one request."""

    name: str

    def identity(self) -> dict[str, Any]:
        """What decides its candidates beside the settings, such as hashes of weights; cheap."""
        ...

    def prepare(self) -> None:
        """Load what it needs, before anything is written.

        Raises:
            UserError: if that can't be had.
        """
        ...

    def pieces(self) -> list[str]:
        """Names of all pieces of work, without `/`, the same at every run."""
        ...

    def asked_of(self, piece: str) -> int:
        """Position of the asked composition that a piece belongs to."""
        ...

    def total(self, pieces: Sequence[str]) -> int:
        """How much work these are, in the units that `run` reports."""
        ...

    def run(self, pieces: Sequence[str], advance: Advance) -> Iterator[Crystals]:
        """Candidates of these pieces, as soon as some pieces are complete.

        Their ids are `PIECE` or `PIECE/anything`. A piece without candidates is a failure whose
        `file` is its name.
        """
        ...


def build_methods(asked: Sequence[Asked], settings: Settings, machine: Machine) -> list[Method]:
    """The methods that the settings name.

    Raises:
        UserError: if there is no such method, or PyTorch is not installed.
    """
    require("torch", "torch", "Generating crystals")
    if settings.method not in METHODS:
        raise UserError(f"There is no method {settings.method!r}; known are {', '.join(METHODS)}.")
    built: list[Method] = []
    for name in METHODS[settings.method]:
        wanted = asked
        if settings.method == "auto" and name == "diffusion":
            from crysgen.methods.auto import left_to_diffusion
            from crysgen.methods.retrieval import Retrieval

            wanted = left_to_diffusion(asked, Retrieval(asked, settings, machine))
        built.append(import_module(_MODULES[name]).build(wanted, settings, machine))
    return built
