"""Text in the tokens of a pretrained model: what stands before a block, what is not scored, and that text stays text."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from confreg.languages.model_sources import ModelSourceError
from confreg.languages.pretrained_tokenizer import PretrainedTokenizer
from confreg.languages.sources import widened
from confreg.languages.text import TextLanguage
from confreg.settings import SettingError, TextSettings


@pytest.fixture
def stories(story_folder: Path, tmp_path: Path) -> TextSettings:
    return TextSettings(source=str(story_folder), block_length=16, n_reference=4, n_measured=4, cache=str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(publish: Callable[..., Path]) -> Path:
    return publish()


@pytest.fixture(scope="module")
def beginning(publish: Callable[..., Path]) -> Path:
    return publish(begins=True)


def test_blocks_are_the_documents_in_the_models_own_tokens(stories: TextSettings, folder: Path, story_folder: Path) -> None:
    language = TextLanguage(replace(stories, tokenizer=str(folder)))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    document = (story_folder / "00.txt").read_text(encoding="utf-8")
    expected = tokenizer(document, add_special_tokens=False)["input_ids"][:32]
    assert language.train_blocks([0, 1]).flatten().tolist() == expected
    assert language.vocabulary_size == len(tokenizer)


def test_what_a_tokenizer_puts_before_a_text_stands_before_every_block(stories: TextSettings, folder: Path, beginning: Path) -> None:
    plain, begun = (TextLanguage(replace(stories, tokenizer=str(each))) for each in (folder, beginning))
    assert (plain.first_ids, begun.first_ids) == ((), (0,))
    for blocks in (begun.train_blocks([0, 1, 2]), begun.measured, begun.reference):
        assert blocks.shape[1] == 16
        assert (blocks[:, 0] == 0).all()
    text = begun.train_blocks([0, 1])[:, 1:].flatten()
    assert torch.equal(text, plain.train_blocks([0, 1]).flatten()[:30])
    assert begun.token_counts()[0] == 0  # nobody predicts it


def test_special_tokens_and_newlines_are_not_scored(folder: Path) -> None:
    tokenizer = PretrainedTokenizer(str(folder))
    plain = AutoTokenizer.from_pretrained(folder)
    expected = {each for each in range(len(plain)) if "\n" in plain.decode([each])} | set(plain.all_special_ids)
    assert set(tokenizer.excluded_ids) == expected
    assert len(expected) > 1


def test_text_that_spells_a_special_token_stays_text(folder: Path) -> None:
    backend = PretrainedTokenizer(str(folder)).backend
    ids = backend.encode("<|endoftext|>", add_special_tokens=False).ids
    assert 0 not in ids
    assert backend.decode(ids, skip_special_tokens=False) == "<|endoftext|>"


def test_another_tokenizer_gives_another_cache(stories: TextSettings, folder: Path, tmp_path: Path) -> None:
    own, published = TextLanguage(stories), TextLanguage(replace(stories, tokenizer=str(folder)))
    assert own.folder != published.folder
    copied = tmp_path / "renamed"
    copied.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copied / name).write_bytes((folder / name).read_bytes())
    assert TextLanguage(replace(stories, tokenizer=str(copied))).folder == published.folder


def test_ids_that_only_the_model_has_count_as_zero(stories: TextSettings, folder: Path) -> None:
    language = TextLanguage(replace(stories, tokenizer=str(folder)))
    before = language.token_counts()
    counts = widened(language, 300).token_counts()
    assert counts.shape == (300,)
    assert torch.equal(counts[: len(before)], before)
    assert not counts[len(before) :].any()
    with pytest.raises(SettingError, match="300 token ids and the model 280"):
        widened(language, 280)


def test_a_folder_without_a_tokenizer_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ModelSourceError, match=f"{tmp_path}: its tokenizer"):
        PretrainedTokenizer(str(tmp_path))


def test_the_kept_tokenizer_of_a_language_reads_its_ids(stories: TextSettings, folder: Path, tmp_path: Path) -> None:
    language = TextLanguage(replace(stories, tokenizer=str(folder)))
    language.tokenizer.save_pretrained(tmp_path / "kept")
    kept = PreTrainedTokenizerFast.from_pretrained(tmp_path / "kept")
    block = language.train_blocks([0])[0]
    assert kept.decode(block) == language.tokenizer.decode(block)
