"""Skip compilation in a small first run after an installation.

Compiled kernels (numba's) are built when they are first called, which takes about 45 s in all;
later runs find them on disk. A handful of small crystals is done sooner by the same functions as
plain Python, so that is what a small first run does.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

SMALL = 1000
"""Number of atoms up to which work is small: 13 ms each."""
_LAST_COMPILED = "_graph_kernel.*.nbi"


def interpret_small_work(atoms: int) -> bool:
    """Switch compilation off in this process if nothing is compiled yet and the work is small.

    Args:
        atoms: number of atoms of all structures together.

    Returns:
        Whether it was switched off. It is too late once numba is imported.
    """
    if atoms > SMALL or "numba" in sys.modules or "NUMBA_DISABLE_JIT" in os.environ:
        return False
    if _is_compiled():
        return False
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    # Hashes wrap around, which NumPy's scalars call an overflow.
    warnings.filterwarnings("ignore", "overflow encountered in scalar", RuntimeWarning)
    return True


def _is_compiled() -> bool:
    """Tell whether numba's cache holds the kernels of ALIGNN's graphs."""
    import crysmetrics
    from crysmetrics.folders import code_folders

    places = code_folders(Path(crysmetrics.__file__).parent / "features" / "alignn")
    return any(next(place.rglob(_LAST_COMPILED), None) is not None for place in places)
