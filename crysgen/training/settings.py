"""Settings of a training run: budget, batches, learning rates, validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from crysgen.config_values import at_least, from_values, positive

_MOST_MINUTES = 10_000_000.0
_MOST = 2**53


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a run. The budget is that of the whole run, and its stages share it.

    Attributes:
        minutes: budget by the clock; or
        steps: in optimiser steps, where that is positive; or
        epochs: over the data, where that is positive.
        seed: of weights, order and noise.
        batch_atoms: atoms of a batch on each device.
        learning_rate: the highest.
        weight_decay: on matrices.
        muon: learning rate of Muon for the layers' matrices, in units of `learning_rate`; 0 for
            AdamW alone, as in the paper.
        warmup_steps: over which the learning rate rises.
        decay_share: last share of the budget, over which it falls to zero; a run can be continued
            from before that as if it had always had the longer budget.
        ema: decay of the average of the weights, which is what samples (the paper's is 0.995).
        clip: largest norm of the gradient.
        val_minutes: between validations (or `val_steps` where the budget is in steps).
        val_steps: see there.
        val_draws: how often each validation crystal is noised.
        share: of a stage in the budget, in units of the sum over all stages.
        stages: settings of single stages that win over these: `{"autoencoder": {"share": 0.3}}`.
            Budget and seed belong to the whole run.
    """

    minutes: float = 60.0
    steps: int = 0
    epochs: int = 0
    seed: int = 0
    batch_atoms: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    muon: float = 2.0
    warmup_steps: int = 200
    decay_share: float = 0.4
    ema: float = 0.998
    clip: float = 1.0
    val_minutes: float = 3.0
    val_steps: int = 500
    val_draws: int = 4
    share: float = 1.0
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive("minutes", self.minutes, _MOST_MINUTES)
        positive("val_minutes", self.val_minutes, _MOST_MINUTES)
        for name in ("steps", "epochs", "seed", "warmup_steps"):
            at_least(name, getattr(self, name), 0, _MOST)
        for name in ("batch_atoms", "val_steps", "val_draws"):
            at_least(name, getattr(self, name), 1, _MOST)
        for name in ("learning_rate", "clip", "share"):
            positive(name, getattr(self, name), 1e6)
        for name in ("weight_decay", "muon"):
            at_least(name, getattr(self, name), 0, 1e6)
        positive("decay_share", self.decay_share, 1)
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be at least 0 and below 1, not {self.ema}")
        for stage, settings in self.stages.items():
            for name in ("minutes", "steps", "epochs", "seed", "stages"):
                if name in settings:
                    raise ValueError(f"{name} belongs to the whole run, not to the stage {stage}")
            from_values(TrainingSettings, settings)

    def changed(self, values: Mapping[str, Any]) -> TrainingSettings:
        """Return the settings with some of them replaced.

        Raises:
            ValueError: naming a setting that is unknown or invalid.
        """
        return from_values(TrainingSettings, asdict(self) | dict(values))

    def for_stages(self, names: Sequence[str]) -> TrainingSettings:
        """Return the settings, once it is checked that a model has all of these stages.

        Raises:
            ValueError: naming a stage that it does not have.
        """
        for stage in self.stages:
            if stage not in names:
                raise ValueError(f"there is no stage {stage!r}; the stages are {', '.join(names)}")
        return self

    def of_stage(self, stage: str, names: Sequence[str]) -> TrainingSettings:
        """Return the settings of one stage, with its part of the budget.

        Args:
            stage: one of `names`.
            names: all stages of the model.
        """
        if len(names) == 1 and not self.stages:
            return self
        own = {name: self.changed(self.stages.get(name, {}) | {"stages": {}}) for name in names}
        part = own[stage].share / sum(settings.share for settings in own.values())
        return replace(
            own[stage],
            minutes=self.minutes * part,
            steps=max(1, round(self.steps * part)) if self.steps else 0,
            epochs=max(1, round(self.epochs * part)) if self.epochs else 0,
        )
