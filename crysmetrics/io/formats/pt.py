"""`.pt` files of CDVAE, DiffCSP and their descendants: tensors of a whole generated set.

Such files are pickles. They are read by PyTorch's own reader of weights, which builds tensors and
plain containers only; whatever else is inside (the settings of a run, a batch of PyTorch
Geometric) becomes an empty stand-in, and no class is imported for it.
"""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crysmetrics.errors import UserError
from crysmetrics.io.entries import Columns, Entry, Source
from crysmetrics.io.formats import arrays
from crysmetrics.io.formats.base import Format
from crysmetrics.io.parsed import one_line
from crysmetrics.packages import is_installed
from crysmetrics.torch_files import load_tensors

_MAX_PICKLE = 64 * 1024**2
"""Largest pickle inside; tensors stand beside it."""
_MAX_ATOMS = 50_000_000

_TENSORS = re.compile(
    r"torch\._utils\._rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.(\w+Storage|Size|device|storage\.\w+Storage|float16|float32|float64|int32|int64)"
    r"|collections\.OrderedDict"
)
"""Names from which PyTorch builds tensors; they take no more memory than the file has."""

_INERT = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|pathlib\.\w+|collections\.(defaultdict|Counter)"
    r"|(torch_geometric|torch_sparse|omegaconf|hydra|easydict|addict|ml_collections|numpy)\.[\w.]+"
    r"|datetime\.\w+|builtins\.(set|slice|complex|getattr|object|dict|list|int|str|float|bool)"
    r"|__builtin__\.(set|slice|complex|getattr|object|dict|list|int|str|float|bool|long|unicode)"
    r"|typing\.\w+|enum\.\w+|copy_reg\._reconstructor|copyreg\._reconstructor|_codecs\.encode"
)
"""Names that such files hold beside tensors; each is replaced by `_StandIn`."""


class _StandIn:
    """In place of an object that is not read: takes any state and keeps none."""

    def __new__(cls, *_: Any, **__: Any) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _StandInMaker:
    """In place of an object that is called to make others."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return _StandIn


def open_pt(path: Path, columns: Columns) -> Source:
    """Read entries of the structures in a `.pt` file; ids are their positions.

    Args:
        path: as `torch.save` writes since PyTorch 1.6.
        columns: not used.

    Raises:
        UserError: if PyTorch is not installed.
    """
    stem = path.name.split(".")[0]
    try:
        data = _load(path)
        entries = list(arrays.array_entries(data, path.name))
    except ValueError as error:
        return Source([Entry(path.name, "", stem, reason=str(error))], 1, [])
    return Source(entries, len(entries), [])


def _load(path: Path) -> dict[str, Any]:
    """Read arrays of the set.

    Raises:
        ValueError: with the reason, if the file holds none that may be read.
    """
    names = _names(path)
    refused = sorted(n for n in names if not _TENSORS.fullmatch(n) and not _INERT.fullmatch(n))
    if refused:
        raise ValueError(f"asks for {refused[0][:80]!r}, which is no data; refused")
    inert = [name for name in names if not _TENSORS.fullmatch(name)]
    if not is_installed("torch"):
        raise UserError(f"{path} can be read only where PyTorch is installed.")
    stand_ins: list[Any] = [
        (_StandInMaker if name.endswith("Getter") else _StandIn, name) for name in inert
    ]
    stand_ins += [_StandIn, _StandInMaker]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Mapped, so that tensors that are not asked for (whole trajectories) are never read.
            found = load_tensors(path, stand_ins, mmap=True)
    except Exception as error:  # its reader runs into nearly anything in a damaged pickle
        raise ValueError(f"can't be read by PyTorch ({one_line(error)})") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"holds a {type(found).__name__}, not the arrays of a set of structures")
    if not arrays.has_arrays(found):
        fields = ", ".join(map(str, list(found)[:6]))[:100]
        raise ValueError(
            f"holds no frac_coords, atom_types, num_atoms, lengths and angles (but {fields})"
        )
    wanted = (*arrays.KEYS, "lengths", "angles", *arrays.LATTICE_KEYS)
    return {key: _numpy(found[key], key) for key in wanted if key in found}


def _names(path: Path) -> set[str]:
    """List the names of everything that the pickle inside a `.pt` file asks to be built from.

    Raises:
        ValueError: with the reason, if the file is not one of `torch.save`, or too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            pickles = [i for i in infos if i.filename.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1:
                raise ValueError("holds no tensors that torch.save has written")
            if any(i.compress_type != zipfile.ZIP_STORED for i in infos):
                raise ValueError("is compressed, as torch.save never writes it; refused")
            if pickles[0].file_size > _MAX_PICKLE:
                raise ValueError(f"holds a pickle of {pickles[0].file_size / 1e6:.0f} MB; refused")
            data = archive.read(pickles[0])
    except zipfile.BadZipFile as error:
        raise ValueError("is not as torch.save has written it since PyTorch 1.6") from error
    except (OSError, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"can't be read ({one_line(error)})") from error
    names: set[str] = set()
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("GLOBAL", "INST"):
                names.add(str(argument).replace(" ", ".", 1))
            elif opcode.name == "STACK_GLOBAL":
                names.add(".".join(texts[-2:]))
            elif "UNICODE" in opcode.name:
                texts = [*texts[-1:], str(argument)]
            elif opcode.name.startswith("EXT") or opcode.name == "PERSID":
                raise ValueError("holds a pickle of a kind that torch.save never writes; refused")
    except ValueError as error:
        raise ValueError(f"holds a damaged pickle ({one_line(error)})") from error
    return names


def _numpy(value: Any, key: str) -> Any:
    """Convert a tensor to an array.

    Raises:
        ValueError: with the reason, if it is none, or is larger than what is stored of it.
    """
    import torch

    if isinstance(value, (list, tuple)) and value and all(map(torch.is_tensor, value)):
        return np.concatenate([np.atleast_1d(_numpy(v, key)) for v in value])
    if isinstance(value, (int, float, list)):
        return value
    if not torch.is_tensor(value) or value.layout != torch.strided or value.is_quantized:
        raise ValueError(f"has {key} that are no plain tensor")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"has {key} that are larger than their own storage; refused")
    if value.numel() > 200 * _MAX_ATOMS:
        raise ValueError(f"has {key} of {value.numel()} numbers; refused")
    return value.detach().to(torch.float64).numpy()


def _sniff(head: bytes) -> bool:
    return head.startswith(b"PK") and b"/data.pkl" in head[:200]


FORMAT = Format(
    name="pt",
    title="PyTorch tensors",
    suffixes=(".pt", ".pth"),
    open=open_pt,
    sniff=_sniff,
    note="of CDVAE and DiffCSP",
)
