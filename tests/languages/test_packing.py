import os
from types import SimpleNamespace

import numpy as np
import pytest

from confreg.languages import packing
from confreg.languages.cache_folder import complete_folder
from confreg.languages.documents import Document, TextError
from confreg.languages.packing import check_token_ids, open_packed, pack_documents
from confreg.languages.tokenizers import encode_documents, train_tokenizer

PARTS = np.array([0, 1, 2, 0, 0], dtype=np.uint8)


class WordLengths:
    """A tokenizer whose ids are the lengths of the words."""

    def __init__(self, vocabulary_size):
        self.vocabulary_size = vocabulary_size

    def get_vocab_size(self):
        return self.vocabulary_size

    def encode_batch_fast(self, texts, add_special_tokens):
        return [SimpleNamespace(ids=[len(word) for word in text.split()]) for text in texts]


@pytest.fixture
def documents(write_text):
    return [Document(f"{seed}.txt", write_text(seed, 30 + 11 * seed)) for seed in range(5)]


@pytest.fixture
def tokenizer(documents):
    return train_tokenizer([document.text for document in documents], 280)


@pytest.fixture
def cache(tmp_path, documents, tokenizer):
    return complete_folder(tmp_path / "cache" / "abc", lambda folder: pack_documents(documents, PARTS, tokenizer, folder))


def test_the_packed_file_has_the_tokens_of_every_document_in_order(cache, documents, tokenizer, monkeypatch):
    packed = open_packed(cache, 280)
    for i, document in enumerate(documents):
        start, stop = packed.starts[i], packed.starts[i] + packed.n_tokens[i]
        np.testing.assert_array_equal(packed.tokens[start:stop], tokenizer.encode(document.text).ids)
    assert packed.n_tokens.sum() == len(packed.tokens)
    np.testing.assert_array_equal(packed.parts, PARTS)


def test_small_batches_pack_the_same_tokens(tmp_path, cache, documents, tokenizer, monkeypatch):
    monkeypatch.setattr(packing, "BATCH_CHARACTERS", 1)
    again = complete_folder(tmp_path / "again", lambda folder: pack_documents(documents, PARTS, tokenizer, folder))
    assert (again / "tokens.npy").read_bytes() == (cache / "tokens.npy").read_bytes()


def test_tokens_are_mapped_and_take_two_bytes_unless_the_vocabulary_is_larger(tmp_path):
    for vocabulary_size, dtype in [(65536, np.uint16), (65537, np.int32)]:
        tokenizer = WordLengths(vocabulary_size)
        text = [Document("a", "x" * (vocabulary_size - 1) + " one")]
        folder = complete_folder(
            tmp_path / str(vocabulary_size),
            lambda folder, text=text, tokenizer=tokenizer: pack_documents(text, PARTS[:1], tokenizer, folder),
        )
        packed = open_packed(folder, vocabulary_size)
        assert isinstance(packed.tokens, np.memmap)
        assert packed.tokens.dtype == dtype
        assert packed.tokens.tolist() == [vocabulary_size - 1, 3]


def test_an_id_outside_the_vocabulary_is_refused_while_packing_with_document_and_offset(tmp_path):
    bad = [Document("good.txt", "a bc"), Document("bad.txt", "a bc " + "d" * 9)]
    with pytest.raises(TextError, match=r"bad.txt: token 2 has id 9; expected ids from 0 to 8"):
        complete_folder(tmp_path / "abc", lambda folder: pack_documents(bad, PARTS[:2], WordLengths(9), folder))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("ids", "said"),
    [([0, 4, 5], "token 2 has id 5"), ([0, -1, 9], "token 1 has id -1"), ([1.0], "token ids are float64")],
)
def test_bad_token_ids_are_refused_by_name_and_offset(ids, said):
    with pytest.raises(TextError, match=f"^speech: {said}"):
        check_token_ids(np.array(ids), 5, "speech")


def test_good_token_ids_pass():
    check_token_ids(np.array([0, 4]), 5, "speech")
    check_token_ids(np.array([], dtype=np.int64), 5, "speech")


def test_another_number_of_documents_than_announced_is_refused(tmp_path, documents, tokenizer):
    with pytest.raises(TextError, match="4 documents came to be packed; expected 5"):
        pack_documents(documents[:4], PARTS, tokenizer, tmp_path)


@pytest.mark.parametrize("name", ["tokens.npy", "documents.npy"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_packed_files_that_cannot_be_mapped_are_refused(cache, damage, name, how):
    damage(cache / name, how)
    with pytest.raises(TextError, match=r"Delete the folder"):
        open_packed(cache, 280)


def test_packed_files_that_do_not_fit_each_other_are_refused(cache):
    tokens = np.load(cache / "tokens.npy")
    np.save(cache / "tokens.npy", tokens[:-1])
    with pytest.raises(TextError, match=rf"tokens.npy: shape \({len(tokens) - 1},\); expected \({len(tokens)},\)"):
        open_packed(cache, 280)


def test_packed_ids_outside_the_vocabulary_are_refused_with_their_offset(cache, documents, tokenizer):
    ids = np.concatenate(encode_documents(tokenizer, [document.text for document in documents]))
    offset = int(np.flatnonzero(ids >= 260)[0])
    with pytest.raises(TextError, match=rf"tokens.npy: token {offset} has id {ids[offset]}; expected ids from 0 to 259"):
        open_packed(cache, 260)
