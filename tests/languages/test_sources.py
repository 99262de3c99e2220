"""From the settings to a language and the blocks that a run measures."""

from pathlib import Path

import pytest
import torch

from confreg.languages.blocks import default_scored
from confreg.languages.sources import SOURCES, language_of, measured_blocks
from confreg.languages.synthetic import SyntheticLanguage
from confreg.settings import DataSettings, MeasureSettings, SettingError, SyntheticSettings, TextSettings
from confreg.settings.mapping import DATA_KINDS

SMALL = SyntheticSettings(
    vocabulary_size=7, rank=2, block_length=12, n_inverse_temperatures=2, n_backoff_weights=1, n_reference=5, n_measured=8
)


def test_every_kind_of_data_that_a_configuration_can_name_has_a_source() -> None:
    assert set(SOURCES) == set(DATA_KINDS.values())


def test_the_synthetic_settings_give_the_synthetic_language_of_the_runs_seed() -> None:
    language = language_of(SMALL, seed=3)
    assert isinstance(language, SyntheticLanguage)
    assert torch.equal(language.measured, SyntheticLanguage(SMALL, 3).measured)
    assert not torch.equal(language.measured, SyntheticLanguage(SMALL, 4).measured)


def test_data_without_a_source_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingError, match=r"data is DataSettings; expected one of SyntheticSettings, TextSettings"):
        language_of(DataSettings(), seed=0)


def test_a_run_measures_so_many_blocks_and_positions_with_the_truth_of_each() -> None:
    language = language_of(SMALL, seed=0)
    blocks = measured_blocks(language, MeasureSettings(n_blocks=6, n_scored_per_block=4), seed=0)
    assert torch.equal(blocks.measured, language.measured[:6])
    assert torch.equal(blocks.reference, language.reference)  # only five there
    assert blocks.clusters().tolist() == [0, 1, 2, 3, 4, 5]
    assert blocks.scored_positions().sum(1).tolist() == [4] * 6
    assert not (blocks.scored_positions() & ~default_scored(blocks.measured)).any()
    assert blocks.bayes_log_probs is not None
    torch.testing.assert_close(blocks.bayes_log_probs, language.bayes_log_probs(language.measured)[:6])


def test_fewer_blocks_of_a_text_come_from_as_many_documents(story_folder: Path, tmp_path: Path) -> None:
    language = language_of(TextSettings(source=str(story_folder), vocabulary_size=260, block_length=16, cache=str(tmp_path)), seed=0)
    n_documents = len(language.measured_documents.unique())
    blocks = measured_blocks(language, MeasureSettings(n_blocks=n_documents, n_scored_per_block=4), seed=0)
    assert len(blocks.clusters().unique()) == len(blocks.measured) == n_documents


def test_the_scored_positions_are_drawn_by_the_seed() -> None:
    language = language_of(SMALL, seed=0)
    first, again, other = (measured_blocks(language, MeasureSettings(n_scored_per_block=4), seed=seed).scored for seed in (1, 1, 2))
    assert first is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
