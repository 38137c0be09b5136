"""Symmetry operations of a CIF, from its triplets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io.cif_elements import strip_quotes
from crysmetrics.io.parsed import shorten

MAX_OPERATIONS = 1536
"""Most symmetry operations: eight times those of the largest space groups' cells."""
MAX_OPERATION = 100
"""Longest symmetry operation (characters) that is looked at."""
_POWERS = 9 ** np.arange(9)


class Rotations:
    """Rotations of symmetry operations, and what follows from them alone.

    Groups that differ by a shift of the origin have them in common.

    Args:
        matrices: (m, 3, 3), in fractional coordinates.
    """

    def __init__(self, matrices: NDArray[np.float64]) -> None:
        self.matrices = matrices

    @cached_property
    def by_axis(self) -> NDArray[np.float64]:
        """Return (3, 3, m) rotations: positions times these are unmoved images, axis by axis."""
        return np.ascontiguousarray(self.matrices.transpose(1, 2, 0))

    @cached_property
    def changes(self) -> NDArray[np.float64]:
        """Return (m, 3, 3) matrices that give how far positions are moved."""
        return self.matrices - np.eye(3)

    @cached_property
    def coefficients(self) -> NDArray[np.float64]:
        """Return (m, 3) how much of a change of coordinates each operation makes, at most."""
        return np.abs(self.changes).sum(axis=2)

    @cached_property
    def coefficients_by_axis(self) -> NDArray[np.float64]:
        """Return (3, 1, m) coefficients, axis by axis."""
        return np.ascontiguousarray(self.coefficients.T[:, None])

    @cached_property
    def stretch(self) -> float:
        """Return how much larger an operation can make the difference of two positions, at most."""
        return float(np.abs(self.matrices).sum(axis=2).max())

    @cached_property
    def on_metrics(self) -> NDArray[np.float64]:
        """Return (9 n, 9) matrix that turns a metric tensor by each of n different rotations.

        A rotation and its product with the inversion turn it alike, so one of them is enough.
        """
        proper = self.matrices * np.sign(np.linalg.det(self.matrices))[:, None, None]
        rows = dict.fromkeys(map(tuple, (proper + 0.0).reshape(-1, 9).tolist()))
        different = np.array(list(rows)).reshape(-1, 3, 3)
        return np.einsum("mki,mlj->mijkl", different, different).reshape(-1, 9)


@dataclass(frozen=True, eq=False)
class Operations:
    """Symmetry operations x -> rotation @ x + translation, in fractional coordinates.

    Each set of them is made once and used for many blocks, so it remembers what follows from it.

    Args:
        rotations: m of them.
        translations: (m, 3).
        is_group: whether two of them after each other are exactly one of them, up to lattice
            vectors; False if that can't be told.
    """

    rotations: Rotations
    translations: NDArray[np.float64]
    is_group: bool
    first_images: dict[bytes, NDArray[np.intp]] = field(default_factory=dict)
    """By the operations that leave a site where it is (packed bits): those, one for each atom,
    that make its images."""

    def __len__(self) -> int:
        return len(self.translations)

    @cached_property
    def shifts(self) -> NDArray[np.float64]:
        """Return (3, 1, m) translations, axis by axis."""
        return np.ascontiguousarray(self.translations.T[:, None])

    @cached_property
    def _steps(self) -> NDArray[np.float64]:
        """Return (m, 3) translations in 24ths, whole numbers."""
        return np.round(self.translations * 24)

    def shifted(self, shift: NDArray[np.float64]) -> Operations:
        """Return the same operations, in the same order, for positions that are moved by a shift.

        Args:
            shift: (3,) in 24ths of the lattice vectors, whole numbers; so are the translations.
        """
        turned = self.rotations.matrices.reshape(-1, 3) @ shift
        moves = self._steps + shift - turned.reshape(-1, 3)
        # Which operations make the same atom doesn't depend on where the origin is.
        return Operations(self.rotations, moves % 24 / 24, self.is_group, self.first_images)


def parse_operations(triplets: list[str], centerings: list[str]) -> Operations | None:
    """Return the operations of triplets such as x,-y,z+1/2, or None if only the identity is there.

    Args:
        triplets: as the file has them; those of magnetic groups have a fourth part, +1 or -1.
        centerings: of a magnetic group: each operation is followed by each of these.

    Raises:
        ValueError: naming the one that is no symmetry operation.
    """
    if any(triplet.endswith(",") for triplet in triplets):
        triplets = _joined(triplets)
    distinct = tuple(dict.fromkeys(triplets))
    count = len(distinct) * max(1, len(centerings))
    if count > MAX_OPERATIONS:
        raise ValueError(f"has {count} symmetry operations, more than {MAX_OPERATIONS}")
    longest = max(map(len, (*distinct, *centerings)))
    if longest > MAX_OPERATION:
        raise ValueError(f"has a symmetry operation of {longest} characters")
    operations = _parse(distinct)
    if centerings:
        operations = _followed_by(operations, _parse(tuple(centerings)))
    if len(operations) == 1:
        return None  # it is the identity, since that must be among them
    return operations


def _joined(pieces: list[str]) -> list[str]:
    """Operations written with blanks and without quotes (x, y, z), which are values apart."""
    return re.findall(r"[^\s,]+,\s*[^\s,]+,\s*[^\s,]+|\S+", " ".join(pieces))


@lru_cache(maxsize=512)
def _parse(triplets: tuple[str, ...]) -> Operations:
    parsed = np.array([_parse_triplet(triplet) for triplet in triplets])
    # The same operations in any order are looked at once.
    is_group, are_distinct = _judge(tuple(sorted(triplets)))
    if not are_distinct:
        parsed = parsed[_distinct(parsed)]
    rotations = Rotations(parsed[:, :9].reshape(-1, 3, 3))
    return Operations(rotations, parsed[:, 9:].copy(), is_group)


@lru_cache(maxsize=512)
@np.errstate(all="ignore")
def _judge(triplets: tuple[str, ...]) -> tuple[bool, bool]:
    """Tell whether operations are known to be a group, and whether all are different ones.

    Raises:
        ValueError: if they are no group, or no symmetry operations.
    """
    parsed = np.array([_parse_triplet(triplet) for triplet in triplets])
    _check(parsed[:, :9].reshape(-1, 3, 3), parsed[:, 9:])
    distinct = _distinct(parsed)
    is_closed = _is_closed(parsed[distinct, :9].reshape(-1, 3, 3), parsed[distinct, 9:])
    if is_closed is False:
        raise ValueError("has symmetry operations that are no group; is one missing?")
    return bool(is_closed), len(distinct) == len(triplets)


def _distinct(parsed: NDArray[np.float64]) -> NDArray[np.intp]:
    """List rows of operations that are no earlier one, up to lattice vectors, in order."""
    wrapped = np.round(parsed[:, 9:] % 1.0, 6) % 1.0
    codes = np.concatenate([parsed[:, :9], wrapped], axis=1)
    return np.sort(np.unique(codes, axis=0, return_index=True)[1])


def _check(rotations: NDArray[np.float64], translations: NDArray[np.float64]) -> None:
    """Raise ValueError if operations can't be a crystal's, or would move a site from its place."""
    determinants = np.abs(np.linalg.det(rotations))
    if not (np.abs(determinants - 1) < 1e-6).all() or (rotations != np.round(rotations)).any():
        raise ValueError("has a symmetry operation that changes volumes or is no operation")
    remainder = np.abs(translations - np.round(translations)).max(axis=1)
    identity = (np.abs(rotations - np.eye(3)).max(axis=(1, 2)) < 1e-6) & (remainder < 1e-6)
    if not identity.any():
        raise ValueError("has symmetry operations without x,y,z, the identity")


def _is_closed(rotations: NDArray[np.float64], translations: NDArray[np.float64]) -> bool | None:
    """Whether two operations after each other are always one of them; None if it can't be told."""
    turns = np.round(rotations)
    shifts = np.round(translations * 24)
    if len(turns) > 192 or np.abs(translations * 24 - shifts).max() > 1e-6:
        return None  # translations of no space group: those of a supercell, or rounded
    numbers = {code: i for i, code in enumerate(_codes(turns, shifts).tolist())}
    # It is enough that each operation after each of some generators is one of them, if all are
    # products of the generators.
    products: list[list[int]] = []
    known = {numbers[_codes(np.eye(3)[None], np.zeros((1, 3))).item()]}
    while len(known) < len(numbers):
        new = next(i for i in numbers.values() if i not in known)
        moved = shifts @ turns[new].T + shifts[new]
        codes = _codes(turns[new] @ turns, moved).tolist()
        if not numbers.keys() >= set(codes):
            return False
        products.append([numbers[code] for code in codes])
        waiting = list(known)
        while waiting:
            i = waiting.pop()
            for after in products:
                if after[i] not in known:
                    known.add(after[i])
                    waiting.append(after[i])
    return True


def _codes(turns: NDArray[np.float64], shifts: NDArray[np.float64]) -> NDArray[np.int64]:
    """One integer for each operation, the same for translations that differ by a lattice vector.

    Args:
        turns: (m, 3, 3) whole numbers.
        shifts: (m, 3) translations in 24ths, whole numbers.
    """
    entries = np.clip(turns, -4, 4).reshape(-1, 9).astype(np.int64) + 4
    steps = shifts.astype(np.int64) % 24
    return np.asarray(entries @ _POWERS * 24**3 + steps @ np.array([576, 24, 1]), dtype=np.int64)


@lru_cache(maxsize=4096)
def _parse_triplet(triplet: str) -> list[float]:
    """Return nine entries of an operation's rotation, row after row, and its translation.

    Raises:
        ValueError: if it is none.
    """
    import gemmi

    bare = strip_quotes(triplet).replace("\u2212", "-")  # the sign of typography
    parts = bare.split(",")
    if len(parts) == 4 and parts[3].strip() in ("+1", "1", "-1"):  # time reversal
        bare = ",".join(parts[:3])
    try:
        operation = gemmi.Op(bare.lower())
        if not set(bare.lower()) & set("abchkl"):
            scale = float(gemmi.Op.DEN)
            return [n / scale for n in (*chain(*operation.rot), *operation.tran)]
    except (ValueError, RuntimeError):
        pass  # gemmi knows translations of 24ths only
    parts = re.sub(r"\s", "", bare.lower()).split(",")
    if len(parts) != 3:
        raise ValueError(f"has {shorten(bare)!r} where a symmetry operation should stand")
    rows = [_parse_row(part, bare) for part in parts]
    return [*chain(*(row[:3] for row in rows)), *(row[3] for row in rows)]


def _parse_row(expression: str, triplet: str) -> list[float]:
    """Return coefficients of x, y, z and the translation in one part of an operation."""
    row, rest = [0.0, 0.0, 0.0, 0.0], expression
    while rest:
        term = re.match(r"([+-]?)(?:([xyz])|(\d+\.?\d*|\.\d+)(?:/(\d+))?)", rest)
        if term is None or (rest is not expression and not term[1]):
            break
        sign = -1.0 if term[1] == "-" else 1.0
        if term[2]:
            row["xyz".index(term[2])] += sign
        elif term[4] is not None and int(term[4]) == 0:
            break
        else:
            row[3] += sign * float(term[3]) / float(term[4] or 1)
        rest = rest[term.end() :]
    if rest or not expression:
        raise ValueError(f"has {shorten(triplet)!r} where a symmetry operation should stand")
    return row


def _followed_by(first: Operations, then: Operations) -> Operations:
    before, after = first.rotations.matrices, then.rotations.matrices
    rotations = np.einsum("nij,mjk->mnik", after, before).reshape(-1, 3, 3)
    moved = np.einsum("nij,mj->mni", after, first.translations)
    translations = (moved + then.translations).reshape(-1, 3)
    return Operations(Rotations(rotations), translations, is_group=False)
