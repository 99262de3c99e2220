"""What one measurement does, and how a run prepares it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

from confreg.settings.groups import complaints_about_groups, complaints_about_neurons
from confreg.settings.ranges import SettingError, setting

STEPS_APART = 2**32  # keeps the pairs (seed, step) apart

# What may take the place of an activation (confreg/neurons/replacements.py says how), with the key of the number that it needs.
REPLACEMENTS: dict[str, str | None] = {
    "mean_over_reference_tokens": None,
    "median_over_reference_tokens": None,
    "zero": None,
    "fixed_value": "replacement_value",
    "scaled_by_factor": "replacement_factor",
    "clipped_above_mean_over_reference_tokens": None,
    "clipped_below_mean_over_reference_tokens": None,
    "resampled_from_reference_tokens": "replacement_seed",
}
# What a control's random directions keep of the neurons (confreg/neurons/controls.py).
CONTROLS = ("norm_drawn_from_layer", "own_norm_and_null_space_share")


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
class UniversalRules:
    """Thresholds of the kinds of neurons in the table ``universal`` (arXiv 2401.12181 and its released code)."""

    kurtosis_above: float = setting(10.0, at_least=1.0)  # of a prediction or suppression neuron's cosines; 3 of a normal distribution
    partition_variance_above: float = setting(0.005, at_least=0.0, at_most=1.0)  # of a partition neuron's cosines
    # the same in units of 1 / d_model, the variance of a random direction: a second floor, which holds below d_model 1000
    partition_variance_multiple: float = setting(5.0, at_least=0.0)


@dataclass
class MeasurementRequest:
    """One measurement: all neurons of the last MLP, each replaced, by default by its mean over reference tokens."""

    replacement: str = setting("mean_over_reference_tokens", choices=tuple(REPLACEMENTS))
    replacement_value: float | None = setting(None)  # of fixed_value, in units of the activation
    replacement_factor: float | None = setting(None)  # of scaled_by_factor; 0 is zero, 1 changes nothing
    replacement_seed: int = setting(0, at_least=0)  # of resampled_from_reference_tokens, the same at every step
    null_dimensions: int | None = setting(None, at_least=1)  # None: max(4, 5 % of d_model), and at least the exact null space
    # token ids from here on are padding, left out of logits, frequencies and weight measures; None: all are tokens, as in the paper
    vocabulary_size: int | None = setting(None, at_least=2)
    control: str = setting(CONTROLS[0], choices=CONTROLS)  # what the random output directions keep
    control_draws: int = setting(0, at_least=0)  # random output directions in place of the neurons' own
    control_seed: int = setting(0, at_least=0)
    share_floor_nats: float = setting(1e-6, above=0.0)  # a share of a smaller effect is null
    divergence_floor_nats: float = setting(1e-8, above=0.0)  # the same for a share of D(p || p'), which is of the second order in an effect
    groups: dict[str, list[int]] = field(default_factory=dict)  # name -> neurons of the last MLP that are replaced together; one more table
    memory_mib: int = setting(512, at_least=16)  # above the model, but for what is kept of every scored position and document
    batch_blocks: int = setting(32, at_least=1)  # measured together, fewer where memory_mib holds fewer; the shares of processes
    attributions: bool = False  # one more table: gradients of entropy and loss for every neuron of every layer
    universal: bool = False  # one more table: which tokens every neuron of every layer favours, by the weights alone
    rules: SelectionRules = field(default_factory=SelectionRules)
    universal_rules: UniversalRules = field(default_factory=UniversalRules)

    @property
    def replacement_number(self) -> float | None:
        """The value, factor or seed of the replacement; None where its name leaves nothing open."""
        key = REPLACEMENTS[self.replacement]
        number = None if key is None else getattr(self, key)
        return number if number is None or key == "replacement_seed" else float(number)

    @property
    def replacement_label(self) -> str:
        """The name of the replacement with its number, as in ``fixed_value(0.5)``: what the records carry."""
        number = self.replacement_number
        return self.replacement if number is None else f"{self.replacement}({number})"

    def groups_within(self, n_neurons: int) -> dict[str, list[int]]:
        """The groups by name, each with its neurons in order, of a layer with so many neurons: how they were written plays no part.

        Raises:
            SettingError: where a group is empty, names a neuron twice, or one that the layer has not; or a name is none.
        """
        complaints = [*complaints_about_groups(self.groups), *complaints_about_neurons(self.groups, n_neurons)]
        if complaints:
            raise SettingError("\n".join(complaints))
        return {name: sorted(map(int, neurons)) for name, neurons in sorted(self.groups.items())}

    def complaints(self) -> Iterator[str]:
        yield from complaints_about_groups(self.groups)
        if self.replacement not in REPLACEMENTS:  # its range says so
            return
        defaults = {each.name: each.default for each in fields(self)}
        for owner, key in REPLACEMENTS.items():
            if key is None:
                continue
            number = getattr(self, key)
            if owner == self.replacement and number is None:
                yield f"{key} is null and replacement is {owner!r}; expected a number, such as {key}=0.5."
            elif owner != self.replacement and number != defaults[key]:
                unused = f"{key} is {number} and replacement is {self.replacement!r}, which does not use it"
                yield f"{unused}; expected replacement={owner}, or no {key}."


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
