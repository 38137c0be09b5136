"""Run commands on small data and record what they wrote, for comparison with `expected/*.json`.

    python tests/golden/cases.py            # writes all records anew
    python tests/golden/cases.py sample_retrieval metrics

A record changes only where a change of results is meant; the commit says why.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from click.testing import CliRunner

EXPECTED = Path(__file__).parent / "expected"
DECIMALS = 5


def crysgen(*args: str) -> str:
    """Run a command of crysgen in this process and return its standard output."""
    from crysgen.cli import main

    return _invoke(main, args)


def crysmetrics(*args: str) -> str:
    """Run a command of crysmetrics in this process and return its standard output."""
    from crysmetrics.cli import main

    return _invoke(main, args)


def _invoke(main: Any, args: tuple[str, ...]) -> str:
    result = CliRunner().invoke(main, list(args), catch_exceptions=False)
    if result.exit_code:
        raise RuntimeError(f"{args} ended with {result.exit_code}: {result.output}")
    return result.stdout


def _examples() -> None:
    from crysmetrics.examples import unpack

    unpack(Path())


def _table(path: str) -> list[dict[str, Any]]:
    frame = pd.read_csv(path)
    return [
        {str(k): None if pd.isna(v) else v for k, v in row.items()}
        for row in frame.to_dict(orient="records")
    ]


def _set(path: str) -> list[dict[str, Any]]:
    """Atoms, cell and positions of every structure of a set."""
    from crysmetrics.io import read

    return [
        {
            "id": one.ids[0],
            "atomic_numbers": one.atomic_numbers.tolist(),
            "lattice": one.lattices[0].ravel().tolist(),
            "frac_coords": one.frac_coords.ravel().tolist(),
        }
        for one in read(path)
    ]


def _samples(*args: str) -> dict[str, Any]:
    how = ("--library", "benchmark", "--workers", "1", "--device", "cpu", "--quiet")
    crysgen("sample", *args, "-o", "out", *how)
    return {"table": _table("out/samples.csv"), "structures": _set("out")}


def sample_retrieval() -> dict[str, Any]:
    """Crystals of formulas from the library."""
    formulas = ("--composition", "Li2O", "--composition", "LiCoO2", "--composition", "TiO2")
    return _samples(*formulas, "-n", "4", "--method", "retrieval")


def sample_diffusion() -> dict[str, Any]:
    """Crystals from noise in few steps."""
    return _samples(
        "--composition", "NaCl", "-n", "3", "--method", "diffusion", "--steps", "6", "--seed", "3"
    )


def sample_refine() -> dict[str, Any]:
    """Proposals of the library, noised and denoised."""
    return _samples("--composition", "Li2O", "-n", "3", "--method", "refine")


def sample_auto() -> dict[str, Any]:
    """Library and diffusion together, for exact cells of given structures."""
    _examples()
    names = sorted(path.name for path in Path("reference").iterdir())[:4]
    Path("asked").mkdir()
    for name in names:
        (Path("asked") / name).write_bytes((Path("reference") / name).read_bytes())
    found = _samples("--compositions", "asked", "-n", "2", "--steps", "5")
    crysmetrics("match", "out", "asked", "--json", "match.json", "--quiet")
    metrics = json.loads(Path("match.json").read_text())["metrics"]
    return {**found, "match": metrics}


def noise() -> dict[str, Any]:
    """Structures at two steps of the forward process."""
    _examples()
    crysgen("noise", "reference", "--step", "5,60", "-o", "noised", "--device", "cpu", "--quiet")
    return {
        name: _set(f"noised/{name}")[:5]
        for name in sorted(p.name for p in Path("noised").iterdir())
    }


def train() -> dict[str, Any]:
    """Record the history of a short training run.

    Written anew once, in e5b097a, when heads left the backbones for the models: a new model has
    drawn its weights in another order since. From the weights that were drawn before, the history
    was equal. The order stays as it is: the old one mixed heads with backbones, so that a backbone
    would have to draw numbers for a head that it does not have.
    """
    _examples()
    crysgen(
        "train", "gemsdiff", "--data", "reference", "-o", "run", "--steps", "3",
        "--batch-atoms", "60", "--max-atoms", "8", "--device", "cpu", "--quiet",
    )  # fmt: skip
    rows = _table("run/log.csv")
    return {"log": [{k: row[k] for k in ("step", "train", "val")} for row in rows]}


def metrics() -> dict[str, Any]:
    """`metrics.json` of the example sets by every metric, and the tables beside it."""
    _examples()
    crysmetrics("evaluate", "generated", "reference", "-o", "results", "--quiet", "--workers", "1")
    record = json.loads(Path("results/metrics.json").read_text())
    for name in ("timing", "versions"):
        record.pop(name)
    return {"record": record, "per_structure": _table("results/per_structure.csv")}


def streamed() -> dict[str, Any]:
    """Metrics of a set that is read in parts."""
    _examples()
    crysmetrics(
        "evaluate", "generated", "reference", "-o", "results", "--stream", "--quiet",
        "--workers", "1",
    )  # fmt: skip
    return {"metrics": json.loads(Path("results/metrics.json").read_text())["metrics"]}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    case.__name__: case
    for case in (
        sample_retrieval,
        sample_diffusion,
        sample_refine,
        sample_auto,
        noise,
        train,
        metrics,
        streamed,
    )
}


def run(name: str) -> Any:
    """What a case writes, with rounded numbers, run in an empty folder with an empty cache."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        cache = os.environ.get("CRYSMETRICS_CACHE")
        os.environ["CRYSMETRICS_CACHE"] = str(Path(folder) / "cache")
        try:
            return rounded(json.loads(json.dumps(CASES[name]())))
        finally:
            os.chdir(before)
            os.environ.pop("CRYSMETRICS_CACHE")
            if cache is not None:
                os.environ["CRYSMETRICS_CACHE"] = cache


def rounded(value: Any) -> Any:
    """The same with numbers that a file holds in few letters."""
    if isinstance(value, float):
        return round(value, DECIMALS) + 0.0
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return value


def differences(found: Any, expected: Any, where: str = "", tolerance: float = 1e-3) -> list[str]:
    """Name every place where two records differ by more than rounding of another machine."""
    if isinstance(found, dict) and isinstance(expected, dict):
        lines = [f"{where}/{k}: only on one side" for k in sorted(found.keys() ^ expected.keys())]
        for k in sorted(found.keys() & expected.keys()):
            lines += differences(found[k], expected[k], f"{where}/{k}", tolerance)
        return lines
    if isinstance(found, list) and isinstance(expected, list):
        if len(found) != len(expected):
            return [f"{where}: {len(found)} entries, not {len(expected)}"]
        lines = []
        for k, (a, b) in enumerate(zip(found, expected, strict=True)):
            lines += differences(a, b, f"{where}/{k}", tolerance)
        return lines
    numbers = (int, float)
    if found == expected:
        return []
    if isinstance(found, numbers) and isinstance(expected, numbers):
        apart = abs(found - expected)
        if "/frac_coords/" in where:
            apart = abs(apart - round(apart))
        close = apart <= tolerance * max(1.0, abs(expected))
        return [] if close else [f"{where}: {found}, not {expected}"]
    return [f"{where}: {found!r}, not {expected!r}"]


def main() -> None:
    """Write the records of the named cases, or of all."""
    EXPECTED.mkdir(exist_ok=True)
    for name in sys.argv[1:] or CASES:
        record = json.dumps(run(name), indent=None, separators=(",", ":"), sort_keys=True)
        (EXPECTED / f"{name}.json").write_text(record + "\n", encoding="utf-8")
        print(name, len(record) // 1000, "kB")


if __name__ == "__main__":
    main()
