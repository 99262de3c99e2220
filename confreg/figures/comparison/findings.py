"""What a comparison shows, in plain words: the sentences above the figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from confreg.figures.comparison.conditions import Condition
from confreg.figures.comparison.words import count, seeds_in_words, spread
from confreg.figures.histories import FORMED_AFTER, KINDS

CONDITIONS_TOLD = 6  # with more of them the table says it better

TOO_SMALL = "the measured text is too small for the rules to name a neuron"
A_LINE = (
    "A line is the mean over the runs of a condition, its band reaches from the lowest to the highest run, and thin lines are single runs."
)


def comparison_findings(conditions: Sequence[Condition]) -> list[tuple[str, str]]:
    """A heading and a sentence for each condition: in how many runs which kind of neuron formed, and how far the loss came."""
    return [(condition.label, _outcome(condition)) for condition in conditions] if len(conditions) <= CONDITIONS_TOLD else []


def what_is_compared(conditions: Sequence[Condition]) -> str:
    """How many runs of how many conditions, over which seeds, and what a line and its band are."""
    runs = [run for condition in conditions for run in condition.runs]
    seeds = {seeds_in_words(run.seed for run in condition.runs) for condition in conditions}
    each = "" if len(seeds) > 1 else f", {'each ' if len(conditions) > 1 else ''}over seeds {next(iter(seeds))}"
    sentence = f"{count(len(runs), 'run')} of {count(len(conditions), 'condition')}{each if len(runs) > len(conditions) else ''}."
    if len(runs) == 1:
        return f"{sentence} There is nothing to compare it with yet."
    if len(runs) == len(conditions):
        return f"{sentence} One run each: differences may be those between seeds."
    return f"{sentence} {A_LINE}"


def _outcome(condition: Condition) -> str:
    n_finished = len(condition.finished)
    if not n_finished:
        return f"{count(len(condition.runs), 'run')}, none finished."
    named = any(run.why_nothing_is_named is None for run in condition.finished)
    kinds = (
        "; ".join(_formed(condition, kind) for kind in KINDS) if named else "the measured text is too small for the rules to name a neuron"
    )
    sentence = f"{kinds}; {_loss(condition)}."
    return f"{sentence[0].upper()}{sentence[1:]}"


def _formed(condition: Condition, kind: str) -> str:
    finished = condition.finished
    first = [int(formed["formed_step"].min()) for run in finished if len(formed := run.formed_of(kind))]
    if len(finished) == 1:
        number = count(len(finished[0].formed_of(kind)), f"{kind} neuron") if first else f"no {kind} neuron"
        return f"{number} formed{', ' + _since(first) if first else ''}"
    if not first:
        return f"{kind} neurons formed in none of {count(len(finished), 'run')}"
    return f"{kind} neurons formed in {len(first)} of {count(len(finished), 'run')}, {_since(first)}"


def _since(first: list[int]) -> str:
    if len(set(first)) == 1:
        return f"first at step {first[0]:,}"
    return f"first at steps {min(first):,} to {max(first):,} (median {np.median(first):,.0f})"


def _loss(condition: Condition) -> str:
    excess = condition.finals("excess_loss_nats")
    if len(excess):
        return f"the loss ends {spread(excess)} nats above the best predictor"
    losses = condition.finals("loss_nats")
    return f"the loss ends at {spread(losses)} nats" if len(losses) else "no loss was recorded"


def what_formed_means() -> Iterator[str]:
    """The words of the tables."""
    yield f"Formed: named at {FORMED_AFTER} consecutive clock steps; the step is the first of them."
    yield (
        "Control: how many the same rule names among random output directions, at the last step, mean over runs; what the directions keep "
        "of the neurons' own says measure.request.control."
    )
