"""What a run shows, in plain words: the sentences above the figures."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from confreg.figures.histories import FORMED_AFTER, KINDS, formed_neurons, naming_spells
from confreg.figures.naming_rules import control_directions_in_words
from confreg.figures.run_records import MEASURED_AGAIN, RunRecords, number_setting_of, setting_of

DOCUMENTS_MIN = 16  # of the records' contract, where the run's configuration does not say
LOST_SHOWN = 8  # names in the sentence on neurons that formed and were lost
CONTROL_COLUMN = {"entropy": "n_entropy_neurons_control", "token-frequency": "n_frequency_neurons_control"}


def findings(records: RunRecords) -> list[str]:
    """Sentences on the last measured step: the loss, who is named since when, and what the control names."""
    return [*_progress(records), *_losses(records), *_names(records), *_lost(records)]


def large_number(value: float) -> str:
    """A count as people say it: 950, 12,300, 6.14 million."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g} {word}"
    return f"{value:,.0f}"


def _progress(records: RunRecords) -> Iterator[str]:
    if records.facts.get("measured_weights") == "averaged":
        yield "What is measured and saved here are averages of the weights over many steps, not the weights of one step."
    yield from _measured_again(records) if MEASURED_AGAIN in records.facts else _completeness(records)


def _measured_again(records: RunRecords) -> Iterator[str]:
    status = records.facts.get("status")
    if setting_of(records.facts, f"{MEASURED_AGAIN}.kind") == "published":
        yield f"Published weights ({_count(len(records.steps), 'model')}), measured; measured.json says which, and on what."
    else:
        yield f"{_count(len(records.steps), 'saved step')} of a run, measured again; measured.json says by which request."
    if status != "finished":
        yield f"Not every step that was asked for is here (status: {status or 'unknown'})."


def _completeness(records: RunRecords) -> Iterator[str]:
    last, planned = records.steps[-1], setting_of(records.config, "trainer.max_steps")
    status = records.facts.get("status")
    target = f" of {planned:,}" if isinstance(planned, int) else ""
    if status == "finished" and records.facts.get("stopped_early"):
        yield f"This run was stopped early, at step {last:,}{target}; that step was measured as its last."
    elif status not in (None, "finished") or (isinstance(planned, int) and last < planned):
        yield f"This run is not complete (status: {status or 'unknown'}): it was last measured at step {last:,}{target}."


def _losses(records: RunRecords) -> Iterator[str]:
    row = records.model_at_last()
    if not row or math.isnan(row["loss_nats"]):
        return
    tokens = "" if math.isnan(row["tokens_seen"]) else f" ({large_number(row['tokens_seen'])} target tokens)"
    when = f"After {_count(records.steps[-1], 'optimizer step')}{tokens}" if records.steps[-1] else "Before training, at step 0,"
    sentence = f"{when if records.knows_steps else 'Here'} the loss on the measured text is {row['loss_nats']:.3f} nats"
    if not math.isnan(row["bayes_loss_nats"]):
        above = row["loss_nats"] - row["bayes_loss_nats"]
        side = "above" if above >= 0 else "below"
        sentence += f", {abs(above):.3f} {side} the {row['bayes_loss_nats']:.3f} of a predictor that knows the language"
    yield " ".join([f"{sentence}.", *_confidence(row)])


def _confidence(row: dict[str, float]) -> Iterator[str]:
    """How sure the model is against what the evidence warrants, and how well its best guess is calibrated; what is unknown is left out."""
    excess, calibration = row["excess_entropy_nats"], row["calibration_error"]
    if not math.isnan(excess):
        side, sure = ("above", "less") if excess >= 0 else ("below", "more")
        yield f"Its entropy is {abs(excess):.3f} nats {side} that of such a predictor: it is {sure} sure than the evidence warrants."
    if not math.isnan(calibration):
        yield f"Its calibration error is {calibration:.3f}."


def why_nothing_is_named(records: RunRecords) -> str | None:
    """A sentence where the measured text has too few documents for the rules to name anybody; else None."""
    n_documents = records.model_at_last().get("n_documents", math.nan)
    needed = number_setting_of(records.config, "measure.request.rules.clusters_min") or DOCUMENTS_MIN
    if math.isnan(n_documents) or n_documents >= needed:
        return None
    return (
        f"Nothing is named: the measured text has {_count(int(n_documents), 'document')} and the rules ask for at least {needed:g}, "
        "because error bars count documents, not tokens."
    )


def _names(records: RunRecords) -> Iterator[str]:
    reason = why_nothing_is_named(records)
    yield from [reason] if reason else _named(records)


def _named(records: RunRecords) -> Iterator[str]:
    spells, row = naming_spells(records.neurons), records.model_at_last()
    current = spells[spells["last_step"] == records.steps[-1]]
    for kind in KINDS:
        rows = current[current["kind"] == kind]
        verb = "is" if len(rows) == 1 else "are"
        number = _count(len(rows), f"{kind} neuron") if len(rows) else f"no {kind} neuron"
        when = f" at step {records.steps[-1]:,}" if records.knows_steps else ""
        sentence = f"{number} {verb if len(rows) else 'is'} named{when}"
        names = "; ".join(_names_by_age(rows, len(records.steps)))
        sentence = sentence[0].upper() + sentence[1:] + (f": {names}" if names else "")
        control = _beside_the_control(row.get(CONTROL_COLUMN[kind], math.nan), control_directions_in_words(records.config))
        yield f"{sentence}; {control}."


def _names_by_age(spells: pd.DataFrame, n_steps: int) -> Iterator[str]:
    """Names that formed at the same step together, the oldest first."""
    is_formed = spells["n_clock_steps"] >= FORMED_AFTER
    names = spells["layer"].astype(str) + "." + spells["neuron"].astype(str)
    for step, group in names[is_formed].groupby(spells["first_step"]):
        yield f"{', '.join(group)} (formed since step {step:,})"
    if not is_formed.all():
        yield f"{', '.join(names[~is_formed])} ({_why_not_formed(n_steps)})"


def _why_not_formed(n_steps: int) -> str:
    """Fewer measured steps than forming takes say nothing about it."""
    return "not yet formed" if n_steps >= FORMED_AFTER else f"since when takes {FORMED_AFTER} measured steps to say"


def _beside_the_control(mean_count: float, directions: str) -> str:
    if math.isnan(mean_count):
        return "no control was drawn to compare with"
    return f"with {directions} the rule names {mean_count:.2g} on average"


def _lost(records: RunRecords) -> Iterator[str]:
    keys, spells = ["layer", "neuron", "kind"], naming_spells(records.neurons)
    named_now = spells.loc[spells["last_step"] == records.steps[-1], keys].assign(now=True)
    formed = formed_neurons(records.neurons).merge(named_now, on=keys, how="left")
    lost = formed[formed["now"].isna()]
    if len(lost):
        shown = [f"{row['layer']}.{row['neuron']} ({row['kind']}, step {row['formed_step']:,})" for _, row in lost[:LOST_SHOWN].iterrows()]
        more = f" and {len(lost) - LOST_SHOWN} more" if len(lost) > LOST_SHOWN else ""
        yield f"Formed earlier and no longer named: {', '.join(shown)}{more}."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
