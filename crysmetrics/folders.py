"""Folders of the user: caches and data, and what stands in for them where there is no home.

Container users and shared installations may have neither a home folder nor a package folder that
they can write. What is only kept to save time then goes to a folder below the system's temporary
one, which belongs to the user alone; what must last (libraries, models) is refused when it is
written, in a sentence.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

NO_HOME = Path("/nonexistent")
"""Stands for a home folder that can't be determined; the system's users without one have it."""


def cache_folder(application: str) -> Path:
    """Return where an application keeps what saves time: the user's cache folder.

    If that can't be written, a private temporary folder is given; if there can be none either,
    the user's, and whoever writes there is told so.
    """
    import platformdirs

    usual = _below_home(platformdirs.user_cache_dir(application))
    if is_writable(usual):
        return usual
    private = private_folder()
    return usual if private is None else private / application


def data_folder(application: str, **options: bool) -> Path:
    """Return where an application keeps what must last: the user's data folder.

    Args:
        application: its name.
        options: of `platformdirs.user_data_dir`.
    """
    import platformdirs

    return _below_home(platformdirs.user_data_dir(application, **options))


def code_folders(package: Path) -> list[Path]:
    """Return where compiled code of the kernels in a package's folder may lie."""
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        return [Path(given)]
    return [package / "__pycache__", cache_folder("numba")]


def private_folder() -> Path | None:
    """Make a folder of this user below the system's temporary one; None if that is impossible.

    Compiled code is read from there, so a folder that others own or may write to is not used.
    """
    try:
        parent = Path(tempfile.gettempdir())
        user = os.geteuid() if hasattr(os, "geteuid") else "user"
        path = parent / f"crysmetrics-{user}"
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode) or not is_writable(path):
        return None
    if hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or found.st_mode & 0o077):
        return None
    return path


def is_writable(folder: Path) -> bool:
    """Tell whether files can be made in a folder, or in one that is made there first."""
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        effective = os.access in os.supports_effective_ids
        return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK, effective_ids=effective)
    except (OSError, StopIteration):
        return False


def prepare_environment() -> None:
    """Give Matplotlib a private folder for its font list, if it has no other.

    It warns at every start otherwise, and makes the list each time.
    """
    if "MPLCONFIGDIR" in os.environ or not sys.platform.startswith("linux"):
        return
    try:
        home = Path.home()
    except RuntimeError:
        home = NO_HOME
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    if is_writable(config / "matplotlib") and is_writable(cache / "matplotlib"):
        return
    if (private := private_folder()) is not None:
        os.environ["MPLCONFIGDIR"] = str(private / "matplotlib")


def _below_home(path: str) -> Path:
    """Return the path, if it is absolute; else `~`, which names any folder, stays in it."""
    return Path(path) if Path(path).is_absolute() else NO_HOME / path.lstrip("~/")
