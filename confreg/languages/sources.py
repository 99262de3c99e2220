"""From the settings to a language, and from a language to the blocks that a run measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confreg.languages.blocks import Blocks, Language, default_scored, sample_scored
from confreg.languages.mixture import MixtureLanguage
from confreg.languages.synthetic import SyntheticLanguage
from confreg.languages.text import TextLanguage
from confreg.settings import DataSettings, MeasureSettings, MixtureSettings, SettingError, SyntheticSettings, TextSettings

SOURCES: dict[type[DataSettings], Callable[[Any, int], Language]] = {
    SyntheticSettings: SyntheticLanguage,
    TextSettings: TextLanguage,
    MixtureSettings: MixtureLanguage,
}


def language_of(settings: DataSettings, seed: int) -> Language:
    """The source of text that the settings describe; the seed is the run's."""
    if type(settings) not in SOURCES:
        raise SettingError(f"data is {type(settings).__name__}; expected one of {', '.join(kind.__name__ for kind in SOURCES)}.")
    return SOURCES[type(settings)](settings, seed)


def widened(language: Language, n_ids: int) -> Language:
    """The language for a model with so many vocabulary ids, of which its tokenizer may leave the last ones unused: they count as zero.

    Raises:
        SettingError: where the model has fewer, or the language's own distribution would be one over fewer.
    """
    size, has_truth = language.vocabulary_size, language.bayes_log_probs(language.measured[:1]) is not None
    if size > n_ids or (has_truth and size != n_ids):
        expected = "as many" if has_truth else "at most so many"
        raise SettingError(f"The data has {size} token ids and the model {n_ids}; expected {expected}. Is the tokenizer the model's own?")
    language.vocabulary_size = n_ids
    return language


def measured_blocks(language: Language, settings: MeasureSettings, seed: int) -> Blocks:
    """What a run measures: at most so many blocks of each part, and so many scored positions in each block."""
    reference, measured, documents = language.held_out(settings.n_blocks)
    scored = sample_scored(default_scored(measured, language.excluded_ids), settings.n_scored_per_block, seed)
    return Blocks(
        reference=reference,
        measured=measured,
        scored=scored,
        documents=documents,
        excluded_ids=language.excluded_ids,
        bayes_log_probs=language.bayes_log_probs(measured),
    )
