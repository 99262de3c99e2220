"""Languages and texts read side by side."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from confreg.languages.documents import TextError
from confreg.languages.mixture import MixtureLanguage, part_seed
from confreg.languages.order import BlockOrder
from confreg.languages.synthetic import SyntheticLanguage, unigram_log_probs
from confreg.languages.text import TextLanguage
from confreg.settings import DataSettings, MixtureSettings, PartSettings, SyntheticSource, TextSettings, TextSource

SMALL = {"rank": 2, "n_inverse_temperatures": 2, "n_backoff_weights": 1, "n_reference": 6, "n_measured": 8}


def synthetic(weight: float = 1.0, vocabulary_size: int = 5, **changes: float) -> PartSettings:
    return PartSettings(weight, synthetic=SyntheticSource(vocabulary_size=vocabulary_size, **{**SMALL, **changes}))


def mixture(seed: int = 0, block_length: int = 16, **parts: PartSettings) -> MixtureLanguage:
    return MixtureLanguage(MixtureSettings(block_length=block_length, parts=parts), seed)


@pytest.fixture
def text(settings: TextSettings) -> PartSettings:
    own = {name: value for name, value in vars(settings).items() if name not in vars(DataSettings())}
    return PartSettings(3.0, text=TextSource(**own))


def test_blocks_come_from_the_parts_by_weight_each_in_ids_of_its_own(text: PartSettings) -> None:
    language = mixture(b_text=text, a_known=synthetic())
    n_text = language.parts[1].language.vocabulary_size
    assert [part.name for part in language.parts] == ["a_known", "b_text"]
    assert [part.first_id for part in language.parts] == [0, 5]
    assert language.vocabulary_size == 5 + n_text
    is_text = language.train_blocks(range(400)) >= 5
    assert (is_text.all(1) | ~is_text.any(1)).all()
    for n_blocks in range(1, 401):
        assert abs(is_text[:n_blocks, 0].sum().item() - 0.75 * n_blocks) <= 0.5


def test_a_finite_part_is_repeated_pass_after_pass_and_an_endless_one_never(settings: TextSettings, text: PartSettings) -> None:
    language, alone = mixture(text=text, known=synthetic()), TextLanguage(settings)
    blocks = language.train_blocks(range(8 * alone.n_train_blocks))
    of_text, of_known = (blocks[(blocks[:, 0] >= 5) == is_text] for is_text in (True, False))
    order = BlockOrder(alone.n_train_blocks, part_seed(0, "text")).numbers(range(len(of_text)))
    assert torch.equal(of_text - 5, alone.train_blocks(order.tolist()))
    one_pass = sorted(map(tuple, alone.train_blocks(range(alone.n_train_blocks)).tolist()))
    for number in range(6):
        start = number * alone.n_train_blocks
        assert sorted(map(tuple, (of_text[start : start + alone.n_train_blocks] - 5).tolist())) == one_pass
    assert len(set(map(tuple, of_known.tolist()))) == len(of_known)


def test_any_blocks_in_any_order_are_those_of_the_whole_sequence(text: PartSettings) -> None:
    whole = mixture(text=text, known=synthetic(), other=synthetic(0.3)).train_blocks(range(300))
    language = mixture(text=text, known=synthetic(), other=synthetic(0.3))
    for indices in ([299, 0, 150, 151], range(100, 140), [7]):
        assert torch.equal(language.train_blocks(indices), whole[list(indices)])


def test_the_seed_and_the_name_of_a_part_decide_what_is_read_and_the_order_of_writing_does_not(text: PartSettings) -> None:
    first = mixture(text=text, known=synthetic()).train_blocks(range(20))
    assert torch.equal(mixture(known=synthetic(), text=text).train_blocks(range(20)), first)
    assert not torch.equal(mixture(seed=1, known=synthetic(), text=text).train_blocks(range(20)), first)
    twins = mixture(a=synthetic(), b=synthetic()).train_blocks(range(40))
    assert len(set(map(tuple, twins.tolist()))) == 40


def test_synthetic_parts_of_one_size_share_their_ids_and_others_do_not() -> None:
    language = mixture(a=synthetic(), b=synthetic(vocabulary_size=7), c=synthetic())
    assert [part.first_id for part in language.parts] == [0, 5, 0]
    assert language.vocabulary_size == 12
    assert language.tokenizer is None
    assert language.train_blocks(range(300)).unique().tolist() == list(range(12))
    assert mixture(a=synthetic(), c=synthetic()).tokenizer is not None


def test_measured_and_reference_blocks_have_the_right_proportions_from_any_start(text: PartSettings) -> None:
    language = mixture(known=synthetic(), text=text)
    for blocks, n_known, n_text in ((language.measured, 8, 9), (language.reference, 6, 7)):
        is_text = blocks[:, 0] >= 5
        assert is_text.sum() == n_text  # the text's own number: it runs out first
        assert (~is_text).sum() <= n_known
        for n_blocks in range(1, len(blocks) + 1):
            assert abs(is_text[:n_blocks].sum().item() - 0.75 * n_blocks) <= 0.5


def test_measured_blocks_are_those_of_the_parts_with_documents_of_their_own(settings: TextSettings, text: PartSettings) -> None:
    language, alone = mixture(known=synthetic(), text=text), TextLanguage(settings)
    is_text = language.measured[:, 0] >= 5
    known = SyntheticLanguage(language.settings.data_of(synthetic()), part_seed(0, "known"))
    assert torch.equal(language.measured[is_text] - 5, alone.measured)
    assert torch.equal(language.measured[~is_text], known.measured[: (~is_text).sum()])
    assert not set(language.measured_documents[is_text].tolist()) & set(language.measured_documents[~is_text].tolist())
    same_document = alone.measured_documents[:, None] == alone.measured_documents
    found = language.measured_documents[is_text]
    assert torch.equal(found[:, None] == found, same_document)


def test_fewer_measured_blocks_keep_the_proportions_and_spread_over_documents(settings: TextSettings, text: PartSettings) -> None:
    language, alone = mixture(known=synthetic(), text=text), TextLanguage(settings)
    whole = language.held_out(1000)
    assert all(map(torch.equal, whole, (language.reference, language.measured, language.measured_documents)))
    for n_blocks in range(1, len(language.measured)):
        reference, measured, documents = language.held_out(n_blocks)
        assert len(measured) == len(documents) == n_blocks
        is_text = measured[:, 0] >= 5
        assert abs(is_text.sum().item() - 0.75 * n_blocks) <= 0.5
        n_expected = min(int(is_text.sum()), len(alone.measured_documents.unique()))
        assert len(documents[is_text].unique()) == n_expected
        assert len(reference) == min(n_blocks, len(language.reference))


def test_excluded_ids_are_those_of_the_text_where_they_lie_in_the_mixture(settings: TextSettings, text: PartSettings) -> None:
    assert mixture(a=synthetic(), b=text).excluded_ids == tuple(token + 5 for token in TextLanguage(settings).excluded_ids)


def test_two_texts_share_one_tokenizer_of_both_and_one_range_of_ids(text: PartSettings, tmp_path: Path, write_text) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for number in range(20):
        (other / f"{number:02}.txt").write_text(write_text(100 + number, 80).replace("e", "é"), encoding="utf-8")
    second = PartSettings(1.0, text=TextSource(**{**vars(text.text), "source": str(other)}))
    language = mixture(a=text, b=second)
    assert [part.first_id for part in language.parts] == [0, 0]
    a, b = (part.language for part in language.parts)
    assert a.tokenizer.backend_tokenizer.to_str() == b.tokenizer.backend_tokenizer.to_str()
    assert language.vocabulary_size == len(language.tokenizer) == a.vocabulary_size
    assert {"é", "e"} <= set(language.tokenizer.decode(language.train_blocks(range(40)).flatten()))
    assert "é" not in language.tokenizer.decode(a.train_blocks(range(a.n_train_blocks)).flatten())
    assert a.folder != TextLanguage(language.settings.data_of(text)).folder
    assert torch.equal(mixture(a=text, b=second).measured, language.measured)  # from the cache


@pytest.mark.parametrize("n_texts", [1, 2])
def test_a_text_that_cannot_be_used_is_refused_with_the_name_of_its_part(text: PartSettings, tmp_path: Path, n_texts: int) -> None:
    broken = PartSettings(text=TextSource(**{**vars(text.text), "source": str(tmp_path / "nowhere")}))
    with pytest.raises(TextError, match=r"data\.parts\.mine\.text: .*nowhere"):
        mixture(mine=broken, **({"other": text} if n_texts == 2 else {}))


def test_counts_are_of_all_blocks_that_a_run_reads(text: PartSettings) -> None:
    language = mixture(known=synthetic(), text=text)
    expected = torch.zeros(language.vocabulary_size, dtype=torch.int64)
    for block in language.train_blocks(range(600)).tolist():
        for token in block:
            expected[token] += 1
    assert torch.equal(language.token_counts(600), expected)


def slow_prediction(parts: list[tuple[float, SyntheticLanguage]], text: list[int]) -> Tensor:
    """P(next | text) by Bayes' rule over the parts, each part's probability of the text from its own chain of predictions."""
    joint = torch.zeros(5, dtype=torch.float64)
    for weight, language in parts:
        log_probs = language.bayes_log_probs(torch.tensor([text]))[0]
        log_likelihood = unigram_log_probs(language.settings)[text[0]]
        for place in range(1, len(text)):
            log_likelihood += log_probs[place - 1, text[place]].item()
        joint += weight * math.exp(log_likelihood) * log_probs[-1].exp()
    return joint / joint.sum()


def test_the_truth_does_not_know_the_part_and_weighs_each_by_the_text_so_far() -> None:
    language = mixture(
        block_length=10,
        a=synthetic(3.0),
        b=synthetic(1.0, inverse_temperature_max=0.3),
        c=synthetic(2.0, language_seed=4, zipf_exponent=1.0),
    )
    blocks = language.train_blocks(range(6))
    found = language.bayes_log_probs(blocks).exp()
    parts = [(part.weight, part.language) for part in language.parts]
    for block, text in enumerate(blocks.tolist()):
        for place in range(10):
            torch.testing.assert_close(found[block, place], slow_prediction(parts, text[: place + 1]), atol=1e-12, rtol=0)


def test_where_the_ids_tell_the_part_the_truth_is_that_of_the_part() -> None:
    language = mixture(a=synthetic(), b=synthetic(vocabulary_size=7))
    blocks = language.train_blocks(range(8))
    found = language.bayes_log_probs(blocks)
    for block, log_probs in zip(blocks, found, strict=True):
        number = int(block[0] >= 5)
        part, ids = language.parts[number], (slice(0, 5), slice(5, 12))[number]
        torch.testing.assert_close(log_probs[:, ids], part.language.bayes_log_probs(block[None] - part.first_id)[0])
        assert log_probs.exp().sum(-1).tolist() == pytest.approx([1.0] * 16)


def test_one_part_alone_has_its_own_truth() -> None:
    language = mixture(a=synthetic())
    torch.testing.assert_close(language.bayes_log_probs(language.measured), language.parts[0].language.bayes_log_probs(language.measured))


def test_the_loss_of_the_truth_equals_its_entropy_on_average() -> None:
    language = mixture(block_length=24, a=synthetic(2.0), b=synthetic(1.0, inverse_temperature_min=4.0))
    blocks = language.train_blocks(range(1500))
    log_probs = language.bayes_log_probs(blocks)[:, :-1]
    loss = -log_probs.gather(-1, blocks[:, 1:].unsqueeze(-1)).squeeze(-1)
    entropy = -(log_probs.exp() * log_probs.masked_fill(log_probs.isneginf(), 0)).sum(-1)
    gap = (loss - entropy).mean(1)
    assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(1500)


def test_with_a_text_in_it_nobody_knows_the_truth(text: PartSettings) -> None:
    language = mixture(a=synthetic(), b=text)
    assert language.bayes_log_probs(language.measured) is None


def test_the_facts_name_every_part_its_share_its_ids_and_what_is_measured_of_it(text: PartSettings) -> None:
    language = mixture(known=synthetic(), text=text)
    facts = language.facts()
    known, words = facts["parts"]["known"], facts["parts"]["text"]
    assert (facts["kind"], known["kind"], words["kind"]) == ("mixture", "synthetic", "text")
    assert (known["share_of_blocks"], words["share_of_blocks"]) == (0.25, 0.75)
    assert known["token_ids"] == [0, 4]
    assert words["token_ids"] == [5, language.vocabulary_size - 1]
    is_text = language.measured[:, 0] >= 5
    assert words["n_measured_blocks_in_mixture"] == is_text.sum()
    assert known["n_measured_blocks_in_mixture"] + words["n_measured_blocks_in_mixture"] == facts["n_measured_blocks"] == len(is_text)
