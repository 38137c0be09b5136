"""Protocols: which metrics a paper reports, on which structures, with which settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crysmetrics.errors import UserError
from crysmetrics.matching.tolerances import TOLERANCES
from crysmetrics.metrics.registry import all_measures, all_metrics
from crysmetrics.metrics.settings import EvaluationSettings

_COVERAGE = tuple(
    f"cov_{side}{kind}" for kind in ("_marginal", "") for side in ("recall", "precision")
)
_MEAN_DISTANCES = tuple(
    f"{kind}_{side}" for side in ("recall", "precision") for kind in ("amsd", "amcd")
)


@dataclass(frozen=True)
class Protocol:
    """How a paper evaluates.

    Attributes:
        name: as `--protocol` has it.
        summary: what it does, in a sentence.
        source: where it is written.
        metrics: keys that it reports; all if empty.
        with_train: keys that it reports as well where a training set is given.
        settings: fields of `EvaluationSettings` that it fixes.
    """

    name: str
    summary: str
    source: str
    metrics: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    with_train: tuple[str, ...] = ()


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            *("full", "Every metric that needs no relaxation, on all structures.", "crysmetrics")
        ),
        Protocol(
            "brief",
            "A few numbers that say different things: validity, coverage, FAD of infinitely many "
            "samples, symmetry, the match rate of pairs, and S.U.N. with --train.",
            "crysmetrics",
            (
                *("validity", "cov_recall", "cov_precision"),
                *("fad_inf", "symmetric_share", "match_rate"),
            ),
            with_train=("unique_novel", "sun"),
        ),
        Protocol(
            "gemsdiff",
            "Structural validity, EMDs of density and energy, and FAD on all structures, none "
            "filtered out.",
            "GemsDiff, Tables 2 and 3",
            ("struct_validity", "emd_density", "emd_energy", "fad", "fad_inf", "kad"),
            {"subset": "all"},
        ),
        Protocol(
            "cdvae",
            "Validity and coverage on 10,000 structures (all, if there are fewer); EMDs and "
            "diversity on 1,000 valid ones; match rate and RMSE of pairs (reconstruction).",
            "Xie et al. 2021 (CDVAE), Sections 5.1 and 5.2 and Appendix G",
            (
                *("struct_validity", "comp_validity", "validity"),
                *_COVERAGE,
                *_MEAN_DISTANCES,
                *("emd_density", "emd_energy", "emd_energy_cdvae", "emd_num_elements"),
                *("struct_diversity", "comp_diversity", "match_rate", "rmse"),
            ),
            {"limit": 10_000, "subset": "valid:1000"},
        ),
        Protocol(
            "cdvae-optimization",
            "Success rates of structures whose energy was minimised, among the lowest 5, 10 and "
            "15 % of the data set; --thresholds names it.",
            "Xie et al. 2021 (CDVAE), Section 5.3 and Table 3",
            ("sr5", "sr10", "sr15"),
        ),
        Protocol(
            "adaptive-cell",
            "Coverage and Fréchet distances on CrystalNN and CGCNN of 1,000 structures against "
            "the reference without its monoclinic and triclinic crystals.",
            "Adaptive-cell score model (arXiv 2310.10695), Section 5.2, Table 1",
            (*_COVERAGE, "fd_crystalnn", "fd_cgcnn"),
            {"limit": 1000, "reference_space_groups": (16, 230)},
        ),
        Protocol(
            "crysldm",
            "Validity and EMDs of 1,000 structures, and how many are at most 0.1 eV/atom above the "
            "hull when relaxed, which takes hours on a CPU.",
            "CrysLDM, Section 5 and Table 1",
            (
                *("comp_validity", "struct_validity", "emd_num_elements", "emd_density"),
                *("metastable_rate", "stability_cost"),
            ),
            {"limit": 1000},
        ),
        Protocol(
            "mattergen",
            "Of 1,024 structures: unique and novel within pymatgen's default tolerances, and at "
            "most 0.1 eV/atom above the hull when relaxed (msun). Needs --train; relaxes unless "
            "--energies are given.",
            "Zeni et al. 2025 (MatterGen), Figure 2",
            (
                *("stable_rate", "metastable_rate", "uniqueness", "novelty", "unique_novel"),
                *("sun", "msun", "metastable_unique", "metastable_novel", "rmsd_relaxed"),
            ),
            {"limit": 1024, "tolerances": TOLERANCES["pymatgen"]},
        ),
    )
}
"""By name. Thresholds of coverage belong to the data set, not to a protocol."""
PROTOCOL_NAMES = tuple(PROTOCOLS)
BRIEF_COLUMNS = PROTOCOLS["brief"].metrics + PROTOCOLS["brief"].with_train
"""Metrics of tables for people where no others are chosen."""


@dataclass(frozen=True)
class Plan:
    """What one evaluation computes.

    Attributes:
        measures: names of measures, in the order of tables.
        metrics: keys to report.
        settings: with the protocol's name in them.
        explicit: whether the metrics were named one by one, so that none may be left out.
    """

    measures: tuple[str, ...]
    metrics: tuple[str, ...]
    settings: EvaluationSettings
    explicit: bool

    def with_pairing(self, pairing: str | None) -> Plan:
        """Fit the plan to sets that are paired by `pairing`.

        Without pairs (None) the metrics of pairs do not apply, unless they were named.
        """
        settings = replace(self.settings, pairing=pairing or "auto")
        if pairing is not None or self.explicit:
            return replace(self, settings=settings)
        measures = {n: m for n, m in all_measures().items() if n in self.measures and not m.paired}
        keys = {metric.key for measure in measures.values() for metric in measure.metrics}
        metrics = tuple(key for key in self.metrics if key in keys)
        return replace(self, measures=tuple(measures), metrics=metrics, settings=settings)

    def with_energies(self) -> Plan:
        """Fit the plan to structures whose energies above the hull are given.

        Shares of stable structures then take no relaxation, so that all metrics include them.
        """
        if self.explicit or PROTOCOLS[str(self.settings.protocol)].metrics:
            return self
        wanted = {*self.metrics, "stable_rate", "metastable_rate"}
        measures = {n: m for n, m in all_measures().items() if n in {*self.measures, "stability"}}
        keys = [metric.key for measure in measures.values() for metric in measure.metrics]
        metrics = tuple(key for key in keys if key in wanted)
        return replace(self, measures=tuple(measures), metrics=metrics)


def plan(
    protocol: str = "full",
    metrics: Sequence[str] | None = None,
    settings: EvaluationSettings | None = None,
    chosen: frozenset[str] = frozenset(),
    roles: Sequence[str] = ("gen", "ref"),
) -> Plan:
    """Decide what to compute for a protocol, or for some metrics of it.

    Args:
        protocol: a name in PROTOCOLS.
        metrics: keys of metrics or names of measures; those of the protocol if None.
        settings: the user's.
        chosen: names of those settings that the user set; the others yield to the protocol.
        roles: the sets that are given; metrics that need another one do not apply.

    Raises:
        UserError: if there is no such protocol or metric, or a setting contradicts the protocol.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"There is no protocol {protocol!r}; known are {', '.join(PROTOCOLS)}.")
    wanted = PROTOCOLS[protocol]
    settings = settings or EvaluationSettings()
    fixed = dict(wanted.settings)
    for name, value in wanted.settings.items():
        if name not in chosen or getattr(settings, name) == value:
            continue
        if name == "subset" and settings.subset in _without_number(value):
            fixed["subset"] = settings.subset
            continue
        shown = getattr(value, "name", value)
        raise UserError(
            f"The protocol {protocol} has {name.replace('_', ' ')} {shown}; leave out the "
            "option, or take the protocol full."
        )
    reported = wanted.metrics + wanted.with_train
    measures = all_measures()
    if "train" not in roles and any(
        metric.key in wanted.metrics
        for measure in measures.values()
        if "train" in measure.roles
        for metric in measure.metrics
    ):
        raise UserError(f"The protocol {protocol} compares with a training set; give --train.")
    known = [m.key for measure in measures.values() for m in measure.metrics]
    if metrics is not None:
        keys = _keys(metrics)
        outside = [key for key in keys if wanted.metrics and key not in reported]
        if outside:
            raise UserError(f"The protocol {protocol} does not report {', '.join(outside)}.")
    else:
        keys = [
            m.key
            for measure in measures.values()
            if set(measure.roles) <= set(roles)
            for m in measure.metrics
            if (m.key in reported if wanted.metrics else not measure.on_request)
        ]
    return Plan(
        tuple(n for n, m in measures.items() if any(d.key in keys for d in m.metrics)),
        tuple(key for key in known if key in keys),
        replace(settings, protocol=protocol, **fixed),
        explicit=metrics is not None,
    )


def _without_number(subset: str) -> tuple[str, ...]:
    """Select subsets of the same kind without a number, for sets with too few structures."""
    return ("valid:all", "valid") if subset.startswith("valid:") else ("all",)


def shortfalls(document: Mapping[str, Any]) -> dict[str, str]:
    """Find metrics of fewer (or more) structures than the protocol takes.

    Args:
        document: `crysmetrics/1`.

    Returns:
        Key of metric -> what to keep in mind; of those that the number of structures decides or
        whose subset is another one.
    """
    settings = document["settings"]
    protocol = PROTOCOLS.get(str(settings.get("protocol")))
    if protocol is None:
        return {}
    found: dict[str, str] = {}
    total = document["inputs"]["gen"]["read"] + document["inputs"]["gen"]["failed"]
    limit = protocol.settings.get("limit")
    subset = protocol.settings.get("subset", "all")
    has_subset = {
        m.key
        for measure in all_measures().values()
        if "subset" in measure.settings
        for m in measure.metrics
    }
    for key, metric in all_metrics().items():
        entry = document["metrics"].get(key)
        if entry is None or entry["value"] is None:
            continue
        if key in has_subset and settings.get("subset", subset) != subset:
            kind, _, number = subset.rpartition(":")
            found[key] = (
                f"of {entry['n_gen']:,} {kind} structures, where the protocol {protocol.name} "
                f"takes {int(number):,}"
            )
        elif key not in has_subset and metric.biased and limit is not None and total < limit:
            found[key] = (
                f"of {total:,} structures, where the protocol {protocol.name} takes {limit:,}"
            )
    return found


def _keys(names: Sequence[str]) -> list[str]:
    """List keys of metrics, from keys and names of measures."""
    measures, metrics = all_measures(), all_metrics()
    if not names:
        raise UserError("No metrics are named; leave the list out for all of them.")
    keys: list[str] = []
    for name in names:
        if name in metrics:
            if "_top" in name:
                raise UserError(f"{name} is of several predictions: use crysmetrics match --top.")
            keys.append(name)
        elif name in measures:
            keys += [m.key for m in measures[name].metrics]
        else:
            known = ", ".join(metrics)
            raise UserError(f"There is no metric {name!r}; known are {known}.")
    return list(dict.fromkeys(keys))
