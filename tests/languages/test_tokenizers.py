import random

import numpy as np
import pytest

from confreg.languages.documents import TextError
from confreg.languages.tokenizers import (
    END_OF_TEXT,
    encode_documents,
    excluded_ids,
    load_tokenizer,
    split_text,
    train_tokenizer,
    wrapped_tokenizer,
)


@pytest.fixture
def tokenizer(write_text):
    return train_tokenizer([write_text(seed, 400) for seed in range(4)], 320)


def strange_text(seed, n_characters=2000):
    """Letters, digits, signs and every kind of blank that Unicode knows."""
    draw = random.Random(seed)
    return "".join(draw.choices("ab é9_ß漢🙂.,'<|>\n\n\r\t  \u00a0\u2003\u2028\x0b\x1c\x85", k=n_characters))


def test_every_text_comes_back_from_its_ids(tokenizer):
    for text in [strange_text(0), " leading", "trailing \n", "\n\n\n", "".join(map(chr, range(1, 0x300))), "\U0010ffff"]:
        [ids] = encode_documents(tokenizer, [text])
        assert tokenizer.decode(ids.tolist(), skip_special_tokens=False) == text
    assert [len(ids) for ids in encode_documents(tokenizer, ["", "a"])] == [0, 1]


def test_the_end_of_text_token_is_id_zero_and_the_vocabulary_has_every_byte(tokenizer):
    assert tokenizer.token_to_id(END_OF_TEXT) == 0
    assert tokenizer.get_vocab_size() == 320
    seen = encode_documents(train_tokenizer([], 257), ["".join(map(chr, range(1, 0x800))) + "\uffff\U0010ffff"])
    assert max(map(max, seen)) < 257


def test_text_that_spells_the_end_of_text_token_never_becomes_it(tokenizer, tmp_path):
    text = f"one{END_OF_TEXT}two {END_OF_TEXT}"
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = load_tokenizer(tmp_path / "tokenizer.json")
    for each in (tokenizer, again):
        [ids] = encode_documents(each, [text])
        assert 0 not in ids
        assert each.decode(ids.tolist(), skip_special_tokens=False) == text
    wrapped = wrapped_tokenizer(again)
    assert wrapped(text).input_ids == ids.tolist()
    assert (wrapped.eos_token_id, len(wrapped)) == (0, 320)
    assert wrapped.decode(ids) == text


def test_training_on_text_that_spells_the_end_of_text_token_makes_no_other_such_token(write_text):
    tokenizer = train_tokenizer([f"word{END_OF_TEXT}" * 50], 300)
    [ids] = encode_documents(tokenizer, [END_OF_TEXT])
    assert 0 not in ids
    assert len(ids) > 1


def test_the_same_texts_give_the_same_tokenizer(write_text, tokenizer):
    assert train_tokenizer([write_text(seed, 400) for seed in range(4)], 320).to_str() == tokenizer.to_str()
    assert train_tokenizer([write_text(seed, 400) for seed in range(1, 5)], 320).to_str() != tokenizer.to_str()


@pytest.mark.parametrize("seed", range(5))
def test_the_tokens_of_the_pieces_of_a_long_text_are_the_tokens_of_the_text(tokenizer, write_text, seed):
    for text in (strange_text(seed), write_text(seed, 500)):
        pieces = list(split_text(text, 37))
        assert len(pieces) > 10
        assert "".join(pieces) == text
        joined = np.concatenate([tokenizer.encode(piece).ids for piece in pieces])
        np.testing.assert_array_equal(joined, tokenizer.encode(text).ids)


def test_a_text_without_blanks_is_cut_before_its_signs_and_keeps_its_tokens(tokenizer):
    text = "置信度神经元。词，元！(ab)c9;'s_x.y_," * 40
    pieces = list(split_text(text, 50))
    assert len(pieces) > 10
    joined = np.concatenate([tokenizer.encode(piece).ids for piece in pieces])
    np.testing.assert_array_equal(joined, tokenizer.encode(text).ids)


def test_pieces_cut_anywhere_would_have_other_tokens(tokenizer, write_text):
    text = write_text(0, 500)
    joined = [i for start in range(0, len(text), 37) for i in tokenizer.encode(text[start : start + 37]).ids]
    assert joined != tokenizer.encode(text).ids


def test_a_text_without_any_place_to_cut_stays_whole():
    assert list(split_text("x" * 1000, 10)) == ["x" * 1000]
    assert list(split_text("", 10)) == [""]


def test_excluded_are_the_end_of_text_and_every_token_with_a_newline():
    tokenizer = train_tokenizer(["one\n\n\n\ntwo\n\n\n\n" * 50 + ";\n" * 50], 290)
    entries = {i: tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())}
    newline = "\u010a"  # how byte-level vocabularies spell byte 10
    expected = [i for i, entry in entries.items() if newline in entry or i == 0]
    assert list(excluded_ids(tokenizer)) == expected
    assert len(expected) > 2  # the newline itself and at least one merge of it


def test_a_short_text_gives_fewer_entries_than_asked_for():
    assert train_tokenizer(["abab"], 5000).get_vocab_size() == 258  # ab is the only pair seen twice


def test_a_vocabulary_without_room_for_all_bytes_is_refused():
    with pytest.raises(TextError, match="vocabulary_size is 256; expected at least 257"):
        train_tokenizer(["text"], 256)


@pytest.mark.parametrize("content", ["{", "{}", train_tokenizer([], 257).to_str().replace(END_OF_TEXT, "<|other|>")])
def test_a_file_that_is_not_such_a_tokenizer_is_refused_with_the_next_move(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(TextError, match=r"tokenizer.json: .*Delete the folder"):
        load_tokenizer(tmp_path / "tokenizer.json")
