"""Files of PyTorch, of which tensors and what a caller names are read, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def load_tensors(source: Any, allowed: Sequence[Any] = (), **options: Any) -> Any:
    """Read a file that `torch.save` wrote, without running anything that it asks for.

    Packages widen what PyTorch's restricted reader takes, for the whole process, when they are
    imported (torch-geometric does); here that is set aside for the time of reading.

    Args:
        source: path or binary file.
        allowed: classes and functions, or pairs of one and the name it stands under in the file,
            that may be built beside tensors and plain containers.
        options: more arguments of `torch.load`.

    Raises:
        pickle.UnpicklingError: if the file asks for anything else.
    """
    import torch
    from torch.serialization import (
        add_safe_globals,
        clear_safe_globals,
        get_safe_globals,
        safe_globals,
    )

    others = get_safe_globals()
    clear_safe_globals()
    try:
        with safe_globals(list(allowed)):
            return torch.load(source, map_location="cpu", weights_only=True, **options)
    finally:
        clear_safe_globals()
        add_safe_globals(others)
