"""Compiled kernels: numba's `njit` with a cache on disk wherever there is a place for one.

numba keeps compiled code beside the source or in the user's cache folder, and ends with an error
where neither can be written. Here a private temporary folder takes their place, and where there is
none, or the disk is full, kernels are compiled in every run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache

from crysmetrics import folders

log = logging.getLogger(__name__)


def njit(*, cache: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function when it is first called; see `numba.njit`.

    Args:
        cache: keep the compiled code on disk, if that is possible.
        options: of `numba.njit`.
    """
    _choose_folder()

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**options)(function)
        if cache and hasattr(dispatcher, "enable_caching"):  # not with NUMBA_DISABLE_JIT
            try:
                dispatcher._cache = _Cache(dispatcher.py_func)
            except RuntimeError as error:
                log.debug("%s is compiled in every run: %s", function.__name__, error)
        return dispatcher

    return compiled


class _Cache(FunctionCache):
    """Compiled code on disk; where it can't be read or written, it is compiled again."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # a damaged file may raise anything
            log.debug("Compiled code can't be read: %s", error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            log.debug("Compiled code can't be kept: %s", error)


def _choose_folder() -> None:
    """Name a private folder to numba, in this process and its workers, if it has no other."""
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    package = Path(__file__).parent
    if folders.is_writable(package / "__pycache__"):
        return
    os.environ["NUMBA_CACHE_DIR"] = str(folders.cache_folder("numba"))
    numba.config.reload_config()
