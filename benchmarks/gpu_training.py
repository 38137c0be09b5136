"""Train generators on a GPU for minutes each, sample with each, and bring back small files.

What to type with a card for ten minutes, beside this repository, PyTorch, NumPy, safetensors and
lightning-fabric (`--check` of coupled processes on a CPU wants SciPy, too; SMACT and pandas, where
they are there, keep the charges of CDVAE's formulas balanced):

    python -m crysgen.training.data ../shared/data -o packed.npz          # anywhere, once
    crysmetrics convert ../shared/data/mp20/test.csv.gz test.npz          # anywhere, once
    python -m crysgen.training.substitutions packed.npz -o exchanges.npz  # anywhere, once
    python benchmarks/gpu_training.py benchmarks/gpu_runs/winner.toml packed.npz --test test.npz \\
        --exchanges exchanges.npz --profile -o OUT
    python benchmarks/gpu_tables.py OUT packed.npz --test test.npz        # tables, on a CPU

In the order of what is missed most: winner.toml, crysldm.toml, cdvae.toml, adaptive_cell.toml
(packed by `crysgen.training.site_data`), processes.toml; v2.toml repeats the shipped model.

With `--check` first, on any CPU: two minutes, every step of what follows, on a few crystals.

RUN.toml: `deadline`, seconds of the whole, after which nothing new begins, and runs are cut so as
to end `reserve` seconds before; `[abort]` with `after` (seconds of training), `crystals_per_second`
and `val_loss`: a run that is slower or worse by then ends; `[[runs]]` with `name`, `seconds`, and
optionally `kind`, `config`, `precision`, `graphs`, tables `model` and `training` over those of the
configuration, an `abort` of its own, and `new` crystals with exchanged elements (of `--exchanges`)
beside `repeats` times the known ones; `[[samples]]` with `set` (`val` or `test`, whose compositions
are sampled, or `free`: atoms of the model's choice), and optionally `runs`, `seeds`, `steps`,
`first` (crystals of the set; 1,000 free ones), `space_groups` (true: those of the set's crystals
are given, which `crysgen.training.site_data` has packed) and a table `settings` of sampling, taken
in order. A model that can't be asked for a composition reconstructs the crystals of the set from
their latent vectors instead.

OUT has no file above 16 MiB; larger ones are cut into NAME.000, NAME.001, ... (`cat` joins them):
`summary.json`, for each run `NAME.zip` with its weights in 16 bits, card and history, and
`samples0.zip` and so on with the samples of all. Best weights so far and samples are there as soon
as they are made: let OUT be where files come back from, not a folder that is packed at the end.
With `--profile` it also says which kernels the graph of the largest cells and the preparation of
batches take their time in.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpu_samples import Store, Wanted, deliver, samples, say, title_of

from crysgen.checkpoints import BEST, load_model, save_model
from crysgen.models import model_class
from crysgen.models.adaptive_cell_config import AdaptiveCellConfig
from crysgen.models.cdvae_config import CDVAEConfig
from crysgen.models.crysldm_config import CrysLDMConfig
from crysgen.models.targets import Target
from crysgen.training.configs import load_config
from crysgen.training.data import training_sets
from crysgen.training.fabric import device_name, launch
from crysgen.training.graphs import GraphSteps
from crysgen.training.prefetch import PreparedBatches
from crysgen.training.site_data import SPACE_GROUP
from crysgen.training.steps import EagerSteps
from crysgen.training.substitutions import Exchanges, extended
from crysgen.training.trainer import Trainer
from crysmetrics.io import Crystals

KEYS = {
    "": {"deadline", "reserve", "abort", "runs", "samples"},
    "abort": {"after", "crystals_per_second", "val_loss"},
    "runs": {
        *("name", "seconds", "kind", "config", "precision", "graphs"),
        *("model", "training", "abort", "new", "repeats"),
    },
    "samples": {"set", "runs", "seeds", "steps", "first", "settings", "space_groups"},
}
TINY = {"channels": 32, "pair_channels": 16, "triangle_channels": 8, "layers": 1, "heads": 4}
TINY |= {"radial": 8, "k": 16}
FEWEST_SECONDS = 5.0
"""Of a training that still begins before the deadline."""


class Aborted(Exception):
    """A run that is too slow, or does not learn."""


class Watched(Trainer):
    """A training run that is judged after its first seconds."""

    limits: dict[str, float]
    rows: list[dict[str, Any]]
    keep_weights: Callable[[], None]

    def _report(self) -> None:
        best = self.best
        super()._report()
        if self.best < best:
            self.keep_weights()

    def _validation_due(self) -> bool:
        if not self.rows and self.limits:
            return self.seconds >= self.limits.get("after", 20.0)
        return super()._validation_due()

    def _log(self, row: dict[str, Any]) -> None:
        super()._log(row)
        self.rows.append({k: v if k == "stage" else float(v) for k, v in row.items()})
        rate, loss = self.rows[0]["per_second"], self.rows[0]["val"]
        if rate < self.limits.get("crystals_per_second", 0):
            raise Aborted(f"too slow: {rate:.0f} crystals/s")
        if not loss < self.limits.get("val_loss", np.inf):
            raise Aborted(f"not learning: validation loss {loss:.3f}")


def main(arguments: list[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="RUN.toml")
    parser.add_argument("data", type=Path, help="packed data")
    parser.add_argument("--test", type=Path, help="crystals whose compositions are sampled")
    parser.add_argument("--exchanges", type=Path, help="of elements, for more crystals")
    parser.add_argument("-o", "--output", type=Path, default=os.environ.get("OUT"))
    parser.add_argument("--check", action="store_true", help="everything tiny, on the CPU")
    parser.add_argument("--profile", action="store_true", help="what takes the time of graphs")
    given = parser.parse_args(arguments)
    if given.output is None:
        parser.error("where to write: -o, or the variable OUT")
    Campaign(read_plan(given.run), given).run()


def read_plan(path: Path) -> dict[str, Any]:
    """Read RUN.toml, and refuse what it can't mean before a card is paid for."""
    plan = tomllib.loads(path.read_text(encoding="utf-8"))
    for part, known in KEYS.items():
        tables = plan.get(part, []) if part else plan
        for table in tables if isinstance(tables, list) else [tables]:
            if unknown := set(table) - known:
                raise SystemExit(f"{path}: no {', '.join(sorted(unknown))} in [{part}]")
    names = [run["name"] for run in plan["runs"]]
    if len(set(names)) < len(names):
        raise SystemExit(f"{path}: two runs of one name")
    for run in plan["runs"]:
        prepared(run)
    return plan


def prepared(run: dict[str, Any], **training: Any) -> tuple[type, Any, Any]:
    """Return class, configuration and settings of a run."""
    kind = run.get("kind", "gemsdiff")
    config, settings = load_config(kind, run.get("config", "gpu"))
    config = type(config).from_json(config.to_json() | run.get("model", {}))
    budget = {"minutes": run["seconds"] / 60}
    return model_class(kind), config, settings.changed(budget | run.get("training", {}) | training)


def tiny_model(config: Any) -> Any:
    """Return the configuration with networks that take seconds on a CPU."""
    if isinstance(config, CrysLDMConfig):
        small = {"channels": 32, "layers": 1}
        return replace(
            config,
            autoencoder_settings=config.autoencoder_settings | small,
            denoiser_settings=config.denoiser_settings | small,
        )
    if isinstance(config, CDVAEConfig):
        encoder = config.encoder_settings | {"channels": 32, "layers": 1}
        return replace(config, encoder_settings=encoder, decoder_settings=TINY)
    if isinstance(config, AdaptiveCellConfig):
        small = {"channels": 16, "edge_channels": 16, "triplet_channels": 4, "layers": 1, "k": 12}
        return replace(config, network_settings=small | {"triplet_k": 6})
    return replace(config, network_settings=TINY) if config.network == "pairformer" else config


class Campaign:
    """All runs of a file, one after the other."""

    def __init__(self, plan: dict[str, Any], given: argparse.Namespace) -> None:
        self.plan, self.check, self.profile = plan, given.check, given.profile
        self.begun = time.perf_counter()
        self.cuda = torch.cuda.is_available() and not given.check
        self.device = "cuda" if self.cuda else "cpu"
        self.output = Path(given.output)
        self.output.mkdir(parents=True, exist_ok=True)
        self.train, self.val = training_sets([given.data], None, 20)
        self.scratch = self.output
        self.exchanges = Exchanges.load(given.exchanges) if given.exchanges else None
        self.known = self.train
        self.collected: tuple[tuple[int, int], Crystals] | None = None
        self.sets = {"val": self.val}
        if given.test is not None:
            self.sets["test"] = Crystals.load(given.test)
        if self.check:
            self.train, self.val = self.train[:300], self.val[:24]
            self.sets = {name: crystals[:8] for name, crystals in self.sets.items()}
        self.deadline = 110.0 if self.check else float(plan.get("deadline", 1e9))
        self.reserve = 30.0 if self.check else float(plan.get("reserve", 0.0))
        self.summary: dict[str, Any] = {
            "device": device_name(torch.device(self.device)),
            "torch": torch.__version__,
            "runs": {},
            "samples": {},
            "not_done": [],
        }

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.begun

    def run(self) -> None:
        """Train everything, then sample in the order of the file."""
        say(f"{len(self.train)} crystals to train on, ready after {self.spent:.1f} s")
        with tempfile.TemporaryDirectory() as scratch:
            self.scratch = Path(scratch)
            for run in self.plan["runs"]:
                self._train(run)
                self._write_summary()
            store = Store(self.output)
            for request in self.plan.get("samples", []):
                self._sample(request, store)
                self._write_summary()
        say(f"done after {self.spent:.0f} s")

    def _weights(self, name: str) -> Path:
        """Where the weights of a run are, whole."""
        return self.scratch / f"{name}.safetensors"

    def _write_summary(self) -> None:
        self.summary["seconds"] = round(self.spent, 1)
        (self.output / "summary.json").write_text(json.dumps(self.summary, indent=1))

    def _crystals(self, run: dict[str, Any]) -> Crystals:
        """Collect what a run is trained on."""
        if not run.get("new"):
            return self.train
        if self.exchanges is None:
            raise SystemExit(f"{run['name']} needs --exchanges")
        asked = (run["new"], run.get("repeats", 1))
        if self.collected is not None and self.collected[0] == asked:
            return self.collected[1]
        most = 300 if self.check else asked[0]
        self.collected = asked, extended(self.known, self.exchanges, most, asked[1])
        return self.collected[1]

    def _train(self, run: dict[str, Any]) -> None:
        name = run["name"]
        left = self.deadline - self.reserve - self.spent
        seconds = min(6.0 if self.check else float(run["seconds"]), left)
        if seconds < FEWEST_SECONDS:
            self.summary["not_done"].append(f"training of {name}")
            return
        tiny: dict[str, Any] = {"minutes": seconds / 60, "steps": 0, "epochs": 0}
        if self.check:
            tiny |= {"batch_atoms": 256, "val_minutes": 0.05, "val_draws": 1, "warmup_steps": 5}
        cls, config, settings = prepared(run, **tiny)
        if self.check:
            config = tiny_model(config)
        precision = "32-true" if self.check else run.get("precision", "bf16-mixed")
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        folder = self.scratch / name
        trainer = Watched(
            cls,
            config,
            settings,
            folder,
            self._crystals(run),
            self.val,
            {"hardware": self.summary["device"]},
            fabric=launch(self.device, 1, precision),
            graphs=True if self.check else run.get("graphs"),
        )
        trainer.keep_weights = lambda: self._keep_weights(name, folder)
        trainer.rows = []
        trainer.limits = {} if self.check else self.plan.get("abort", {}) | run.get("abort", {})
        found: dict[str, Any] = {"weights": sum(p.numel() for p in trainer.model.parameters())}
        self.summary["runs"][name] = found
        started = time.perf_counter()
        graphs = not isinstance(trainer.open_steps(), EagerSteps)
        found |= {"graphs": graphs, "capture_s": round(time.perf_counter() - started, 1)}
        say(f"{name}: ready after {found['capture_s']} s, graphs: {graphs}")
        if self.profile and graphs and self.cuda:
            found |= speeds(trainer)
        try:
            trainer.run(save_minutes=1e6, show=True)
        except Aborted as error:
            found["aborted"] = str(error)
            say(f"{name}: {error}")
        rates = [row["per_second"] for row in trainer.rows[1:] or trainer.rows]
        found |= {
            "steps": trainer.step,
            "seconds": round(trainer.seconds, 1),
            "epochs": trainer.epoch,
            "crystals_per_second": round(float(np.median(rates))) if rates else None,
            "best_val": trainer.best if np.isfinite(trainer.best) else None,
        }
        if self.cuda:
            found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        if (folder / BEST).is_file():
            self._keep_weights(name, folder)
        del trainer
        gc.collect()

    def _keep_weights(self, name: str, folder: Path) -> None:
        """Write the best weights so far, which a command that is cut off leaves behind."""
        if not (folder / BEST).is_file():  # of an earlier stage
            return
        model = load_model(folder / BEST)
        card = json.loads((folder / BEST).with_suffix(".json").read_text())
        facts = {k: v for k, v in card.items() if k not in ("format", "kind", "config", "sha256")}
        path = self._weights(name)
        save_model(model, path, facts, dtype=torch.bfloat16)
        packed = path.with_suffix(".zip")
        with zipfile.ZipFile(packed, "w") as archive:
            for file in (path, path.with_suffix(".json")):
                archive.write(file, file.name)
            archive.write(folder / "log.csv", f"{name}.log.csv")
        deliver(packed, self.output)

    def _sample(self, request: dict[str, Any], store: Store) -> None:
        trained = [run["name"] for run in self.plan["runs"]]
        for name in request.get("runs", trained):
            for seed in request.get("seeds", [0]):
                title = title_of(request, name, seed)
                wanted = self._targets(request, seed)
                path = self._weights(name)
                if wanted is None or not path.is_file() or self.spent > self.deadline:
                    self.summary["not_done"].append(f"samples {title}")
                    continue
                steps = 4 if self.check else request.get("steps")
                started = time.perf_counter()
                made = samples(path, wanted, steps, request.get("settings", {}), self.device)
                seconds = time.perf_counter() - started
                store.add(f"{title}.npz", made)
                found = {"crystals": len(made), "seconds": round(seconds, 2)}
                self.summary["samples"][title] = found | {
                    "run": name,
                    "set": request["set"],
                    "seed": seed,
                    "steps": steps,
                    "settings": request.get("settings", {}),
                    "asked": len(wanted.targets),
                }
                say(f"{title}: {len(made)} crystals in {seconds:.1f} s")

    def _targets(self, request: dict[str, Any], seed: int) -> Wanted | None:
        """Return what is to be sampled; None where the set was not given."""
        first = seed * 1_000_003
        if request["set"] == "free":
            count = 8 if self.check else request.get("first", 1000)
            return Wanted([Target(first + i) for i in range(count)], [str(i) for i in range(count)])
        if request["set"] not in self.sets:
            return None
        crystals = self.sets[request["set"]][: request.get("first")]
        atoms = np.split(crystals.atomic_numbers, crystals.offsets[1:-1])
        groups: list[int | None] = [None] * len(crystals)
        if request.get("space_groups"):
            groups = crystals.properties[SPACE_GROUP].tolist()
        targets = [
            Target(first + i, tuple(numbers.tolist()), space_group=group)
            for i, (numbers, group) in enumerate(zip(atoms, groups, strict=True))
        ]
        return Wanted(targets, crystals.ids, crystals)


def speeds(trainer: Trainer) -> dict[str, Any]:
    """Measure the graphs and the preparation of batches each by itself, in crystals/s.

    Weights stay as they are: the graph that updates them is not called.
    """
    from torch.profiler import ProfilerActivity, profile

    steps = trainer.open_steps()
    assert isinstance(steps, GraphSteps)
    batches = PreparedBatches(
        steps.model, trainer.stage, trainer.train, steps.order, trainer.settings.seed
    )
    examples = {k: batches.example(k) for k in range(len(steps.order.classes))}
    seconds = 0.0
    for k, rows in next(steps.order.blocks()).rows.items():
        steps.losses[k](examples[k])
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(3):
            steps.losses[k](examples[k])
        torch.cuda.synchronize()
        seconds += len(rows) * (time.perf_counter() - started) / 3
    crystals = sum(rows.size for rows in next(steps.order.blocks()).rows.values())
    started = time.perf_counter()
    batches.prepared(next(steps.order.blocks()))
    torch.cuda.synchronize()
    alone = time.perf_counter() - started
    largest = max(examples, key=lambda k: steps.order.classes[k].size)
    for work in (
        lambda: steps.losses[largest](examples[largest]),
        lambda: batches.prepared(next(steps.order.blocks())),
    ):
        with profile(activities=[ProfilerActivity.CUDA]) as kernels:
            work()
            torch.cuda.synchronize()
        say(kernels.key_averages().table("cuda_time_total", 25, max_name_column_width=70))
    found = {"graphs_alone": round(crystals / seconds), "preparing_alone": round(crystals / alone)}
    say(f"crystals/s: {found}")
    return found


if __name__ == "__main__":
    main()
