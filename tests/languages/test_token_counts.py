"""Counts of seen tokens against counting what the loaders of all processes really yield, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from confreg.languages.sources import language_of
from confreg.languages.synthetic import SyntheticLanguage
from confreg.languages.token_counts import SeenTokenCounts, frequency_facts
from confreg.settings import (
    DataSettings,
    MixtureSettings,
    PartSettings,
    Settings,
    SyntheticSettings,
    SyntheticSource,
    TextSettings,
    TextSource,
    TrainerSettings,
)
from confreg.training.data_module import LanguageBlocks
from confreg.training.data_order import StepIndexedBatches, train_loader

SMALL = SyntheticSource(vocabulary_size=9, rank=2, n_inverse_temperatures=2, n_backoff_weights=1, n_reference=2, n_measured=2)


@pytest.fixture(params=["synthetic", "text", "mixture"])
def data(request: pytest.FixtureRequest, settings: TextSettings) -> DataSettings:
    """Each kind of data; the text has about a hundred blocks, fewer than the runs below read."""
    if request.param == "text":
        return settings
    if request.param == "synthetic":
        return SyntheticSettings(block_length=16, **vars(SMALL))
    text = {name: value for name, value in vars(settings).items() if name not in vars(DataSettings())}
    return MixtureSettings(
        block_length=16, parts={"a": PartSettings(synthetic=SMALL), "b": PartSettings(weight=3.0, text=TextSource(**text))}
    )


def counts_of_the_loaders(settings: Settings, language: object, world_size: int) -> Iterator[tuple[int, Tensor]]:
    """Every step with the counts before it, from what the loader of each rank yields."""
    trainer = settings.trainer
    n_batches = trainer.max_steps * trainer.accumulate_batches
    loaders = [
        train_loader(
            language,
            StepIndexedBatches(
                language.n_train_blocks, settings.data.batch_size, n_batches, settings.seed, 0, trainer.overfit_batches, rank, world_size
            ),
        )
        for rank in range(world_size)
    ]
    counts = torch.zeros(language.vocabulary_size, dtype=torch.int64)
    yield 0, counts.clone()
    for number, batches in enumerate(zip(*loaders, strict=True), start=1):
        for token in torch.cat(batches).flatten().tolist():
            counts[token] += 1
        if number % trainer.accumulate_batches == 0:
            yield number // trainer.accumulate_batches, counts.clone()


@pytest.mark.parametrize(
    "trainer",
    [
        {"max_steps": 12},
        {"max_steps": 12, "accumulate_batches": 2, "devices": 2},
        {"max_steps": 9, "overfit_batches": 2, "accumulate_batches": 3},
        {"max_steps": 7, "overfit_batches": 3, "devices": 2},
    ],
)
def test_what_was_seen_before_each_step_is_what_the_loaders_yielded(data: DataSettings, trainer: dict[str, int]) -> None:
    data.batch_size = 12
    settings = Settings(data=data, trainer=TrainerSettings(**trainer), seed=3)
    language = language_of(data, 3)
    seen = SeenTokenCounts.of(settings, language)
    for step, expected in counts_of_the_loaders(settings, language, settings.trainer.devices):
        assert torch.equal(seen(step), expected), step


def test_the_text_of_these_tests_is_read_more_than_once(settings: TextSettings) -> None:
    assert language_of(settings, 3).n_train_blocks < 12 * 12 * 2 * 2


def test_the_data_module_asks_for_the_same_order(settings: TextSettings) -> None:
    language = language_of(settings, 3)
    seen = SeenTokenCounts(language, blocks_per_step=10, seed=4)
    first = next(iter(LanguageBlocks(language, batch_size=10, n_batches=5, seed=4).train_dataloader()))
    assert torch.equal(seen(1), torch.bincount(first.flatten(), minlength=language.vocabulary_size))


def test_steps_may_be_asked_in_any_order_and_each_block_is_read_once_in_rising_order(monkeypatch: pytest.MonkeyPatch) -> None:
    language = SyntheticLanguage(SyntheticSettings(block_length=16, **vars(SMALL)), seed=0)
    expected = [SeenTokenCounts(language, 5, seed=0)(step) for step in (7, 0, 3)]
    n_read = []
    original = language.train_blocks

    def counted(indices: Sequence[int]) -> Tensor:
        n_read.append(len(indices))
        return original(indices)

    monkeypatch.setattr(language, "train_blocks", counted)
    seen = SeenTokenCounts(language, 5, seed=0).at([7, 0, 3])
    assert sum(n_read) == 35
    assert all(torch.equal(seen(step), counts) for step, counts in zip((7, 0, 3), expected, strict=True))
    assert sum(n_read) == 35


def test_counts_that_are_known_are_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    language = SyntheticLanguage(SyntheticSettings(block_length=16, **vars(SMALL)), seed=0)
    steps, table = SeenTokenCounts(language, 5, seed=0).at([2, 4]).table()
    assert steps.tolist() == [0, 2, 4]
    again = SeenTokenCounts(language, 5, seed=0, known=dict(zip(steps.tolist(), table, strict=True)))
    five = again(5)
    assert torch.equal(five, SeenTokenCounts(language, 5, seed=0)(5))
    monkeypatch.setattr(language, "train_blocks", lambda _: pytest.fail("read again"))
    assert all(torch.equal(again(step), counts) for step, counts in zip(steps.tolist(), table, strict=True))


def test_the_counts_of_the_last_step_are_those_of_an_endless_language_over_the_whole_run() -> None:
    language = SyntheticLanguage(SyntheticSettings(block_length=16, **vars(SMALL)), seed=0)
    assert torch.equal(SeenTokenCounts(language, 5, seed=0)(8), language.token_counts(40))


def test_the_run_says_what_was_counted() -> None:
    language = SyntheticLanguage(SyntheticSettings(block_length=16, **vars(SMALL)), seed=0)
    seen = frequency_facts(SeenTokenCounts(language, 5, seed=0).at([0, 4]))
    assert (seen["last_step"], seen["n_tokens"]) == (4, 4 * 5 * 16)
    corpus = frequency_facts(torch.tensor([3, 0, 1, 0]))
    assert corpus == {"counted": "tokens of the training part", "n_tokens": 4, "zero_count_share": 0.5}
