"""What one measurement does, and how a run prepares it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from confreg.settings.ranges import setting

STEPS_APART = 2**32  # keeps the pairs (seed, step) apart


@dataclass
class SelectionRules:
    """Thresholds of the two rules that name a neuron (design: entropy neurons, token-frequency neurons)."""

    n_stderr: float = setting(2.0, at_least=0.0)  # an effect counts after this many standard errors are taken off
    median_multiple: float = setting(5.0, at_least=0.0)  # of the layer's median effect
    entropy_share_floor: float = setting(0.001, at_least=0.0)  # of the model's mean entropy, a second floor for the effect
    norm_mediated_share_min: float = setting(0.5, at_most=1.0)  # lower bound, of the effect on entropy
    frequency_mediated_share_min: float = setting(0.3, at_most=1.0)  # lower bound, of the effect on loss
    frequency_cosine_min: float = setting(0.5, at_least=0.0, at_most=1.0)
    zero_count_share_max: float = setting(0.5, at_least=0.0, at_most=1.0)  # vocabulary ids that were never counted
    clusters_min: int = setting(16, at_least=2)  # documents; below it nothing is named


@dataclass
class MeasurementRequest:
    """One measurement: all neurons of the last MLP, each replaced by its mean over reference tokens."""

    replacement: str = setting("mean_over_reference_tokens", choices=("mean_over_reference_tokens",))
    null_dimensions: int | None = setting(None, at_least=1)  # None: max(4, 5 % of d_model), and at least the exact null space
    control_draws: int = setting(0, at_least=0)  # random output directions with the layer's norms
    control_seed: int = setting(0, at_least=0)
    share_floor_nats: float = setting(1e-6, above=0.0)  # a share of a smaller effect is null
    memory_mib: int = setting(512, at_least=16)  # temporaries of the ablations; logits come on top, see batch_blocks
    batch_blocks: int = setting(16, at_least=1)  # blocks in one forward pass: their logits, and five times those of the scored, are kept
    rules: SelectionRules = field(default_factory=SelectionRules)


@dataclass
class MeasureSettings:
    """A run's preset: how many blocks and positions, how many control draws, and the request itself."""

    n_blocks: int = setting(64, at_least=1)  # at most, of each of the two parts
    n_scored_per_block: int = setting(32, at_least=1)  # positions
    control_draws: int = setting(1, at_least=0)  # at each clock step, seeded by (seed, step)
    control_draws_last: int = setting(20, at_least=0)  # at the last step
    request: MeasurementRequest = field(default_factory=MeasurementRequest)

    def request_at(self, step: int, last: int, seed: int) -> MeasurementRequest:
        """The request at a clock step: the control is drawn afresh at each, by (seed, step), and more often at the last."""
        draws = self.control_draws_last if step == last else self.control_draws
        return replace(self.request, control_draws=draws, control_seed=seed * STEPS_APART + step)
