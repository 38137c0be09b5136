"""Run a script as on a machine that has PyTorch, NumPy, safetensors and lightning-fabric alone.

python tests/bare_machine.py SCRIPT ARGUMENTS
"""

import runpy
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ALLOWED = (
    "torch numpy safetensors lightning-fabric lightning-utilities typing-extensions packaging "
    "fsspec filelock jinja2 markupsafe sympy mpmath networkx setuptools triton tqdm pyyaml"
).split()


class Without:
    """A finder that does not find some packages."""

    def __init__(self, finder, names):
        self.finder, self.names = finder, names

    def find_spec(self, name, path=None, target=None):
        """Find a module of the packages that are there."""
        if name.split(".")[0] in self.names:
            return None
        return self.finder.find_spec(name, path, target)


def missing() -> set[str]:
    """List the importable names of installed packages that such a machine does not have."""
    return {
        name
        for name, owners in packages_distributions().items()
        if not any(owner.lower().replace("_", "-") in ALLOWED for owner in owners)
    } - {"crysgen", "crysmetrics"}


if __name__ == "__main__":
    sys.meta_path[:] = [Without(finder, missing()) for finder in sys.meta_path]
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))  # as Python itself does
runpy.run_path(sys.argv[0], run_name="__main__")
