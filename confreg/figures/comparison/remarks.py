"""Why the runs of a comparison may not be strictly comparable, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from confreg.figures.comparison.conditions import Condition
from confreg.figures.comparison.facts import differing_facts, distinct
from confreg.figures.comparison.runs import ComparedRun, ComparedRuns, state_in_words
from confreg.figures.comparison.words import count, names_in_words, seeds_in_words
from confreg.figures.histories import FORMED_AFTER
from confreg.figures.run_records import setting_of

NOT_THE_TEXT = ("data.batch_size", "data.workers")  # of the data settings, these do not change what is predicted
SAME_TEXT = ("language.text_sha256", "language.fingerprint")


def remarks(compared: ComparedRuns, conditions: Sequence[Condition]) -> list[str]:
    """Sentences, most serious first; empty where everything is as it should be."""
    return [
        *_left_out(compared),
        *_unfinished(compared.runs),
        *_measured_differently(conditions),
        *_other_clocks(conditions),
        *_other_texts(conditions),
        *_other_ends(conditions),
        *_seeds(conditions),
        *_made_differently(compared.runs),
        *_unknown(compared.runs),
    ]


def _left_out(compared: ComparedRuns) -> Iterator[str]:
    if compared.left_out:
        names, verb = names_in_words([run.name for run in compared.left_out]), "is" if len(compared.left_out) == 1 else "are"
        yield f"{count(len(compared.left_out), 'run')} could not be read and {verb} in no figure: {names}. The reasons stand at the end."


def _unfinished(runs: Sequence[ComparedRun]) -> Iterator[str]:
    unfinished = [f"{run.name} ({state_in_words(run.path, run.facts)}; last step {run.last_step:,})" for run in runs if not run.is_finished]
    if unfinished:
        yield f"Not finished, so in the figures but not in the numbers of the conditions: {names_in_words(unfinished)}."


def _differing(conditions: Sequence[Condition], group: str) -> list[str]:
    return [key for key in (conditions[0].settings if conditions else ()) if key.startswith(f"{group}.")]


def _measured_differently(conditions: Sequence[Condition]) -> Iterator[str]:
    keys = _differing(conditions, "measure")
    if keys:
        yield f"The conditions were measured differently ({names_in_words(keys)}): their counts of neurons do not mean the same."


def _other_clocks(conditions: Sequence[Condition]) -> Iterator[str]:
    keys = _differing(conditions, "clock")
    if keys:
        formed = f"formed means {FORMED_AFTER} clock steps in a row, which is sooner where they lie closer"
        yield f"The clocks differ ({names_in_words(keys)}): {formed}."


def _other_texts(conditions: Sequence[Condition]) -> Iterator[str]:
    keys = [key for key in _differing(conditions, "data") if key not in NOT_THE_TEXT]
    if keys:
        yield (
            f"The conditions predict different texts ({names_in_words(keys)}): compare the excess over the best predictor, where it is "
            "known, not losses, entropies and calibration."
        )
    changed = [each.label for each in conditions if any(len(distinct(each.runs, key)) > 1 for key in SAME_TEXT)]
    if changed:
        yield f"The text itself changed between runs of one configuration: {names_in_words(changed)}."


def _other_ends(conditions: Sequence[Condition]) -> Iterator[str]:
    ends = sorted({run.last_step for condition in conditions for run in condition.finished})
    if len(ends) > 1:
        yield f"The runs end at different steps ({names_in_words([f'{step:,}' for step in ends])}): the tables show each at its own end."


def _seeds(conditions: Sequence[Condition]) -> Iterator[str]:
    for condition in conditions:
        twice = [seed for seed, times in Counter(run.seed for run in condition.runs if run.seed is not None).items() if times > 1]
        if twice:
            yield f"{condition.label} has more than one run of seed {seeds_in_words(twice)}: they are repeats, not independent draws."
    seeds = {condition.label: _known_seeds(condition) or "unknown" for condition in conditions}
    if len(set(seeds.values())) > 1:
        yield f"The seeds are not the same: {names_in_words([f'{label}: {given}' for label, given in seeds.items()])}."


def _known_seeds(condition: Condition) -> str:
    return seeds_in_words(sorted({run.seed for run in condition.runs if isinstance(run.seed, int)}))


def _made_differently(runs: Sequence[ComparedRun]) -> Iterator[str]:
    differing = [key for key, _ in differing_facts(runs)]
    packages, conditions = _below("versions", differing), _below("reproducibility", differing)
    changed = sum(setting_of(run.facts, "git.dirty") is True for run in runs)
    reasons = [f"different versions of {names_in_words(packages)}"] if packages else []
    reasons += [f"{len(distinct(runs, 'git.commit'))} different commits of the code"] if "git.commit" in differing else []
    reasons += [f"uncommitted changes in {changed} of {count(len(runs), 'run')}"] if changed else []
    reasons += [f"other conditions ({names_in_words(conditions)})"] if conditions else []
    if reasons:
        made = "; ".join(reasons)
        yield f"The runs are not strictly comparable, for they were made with {made}. Small differences may come from there."


def _below(group: str, keys: Sequence[str]) -> list[str]:
    return [key.removeprefix(f"{group}.") for key in keys if key.startswith(f"{group}.")]


def _unknown(runs: Sequence[ComparedRun]) -> Iterator[str]:
    without = [run.name for run in runs if not run.settings]
    if without:
        yield f"Without config.yaml, so each stands alone: {names_in_words(without)}."
    small = [run.name for run in runs if run.why_nothing_is_named]
    if small:
        yield f"Too few documents for the rules to name anybody: {names_in_words(small)}."
