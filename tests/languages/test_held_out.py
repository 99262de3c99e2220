"""Fewer held-out blocks of a text than there are."""

from __future__ import annotations

import torch

from confreg.languages.text import TextLanguage
from confreg.settings import TextSettings


def test_fewer_blocks_are_spread_over_the_same_documents(story_folder, tmp_path):
    """Of every held-out document one block before any gives a second."""
    settings = TextSettings(source=str(story_folder), vocabulary_size=260, block_length=16, cache=str(tmp_path))
    language = TextLanguage(settings, seed=0)
    n_documents = len(language.measured_documents.unique())
    assert len(language.measured) > 2 * n_documents > 6
    reference, measured, documents = language.held_out(n_documents)
    assert len(documents.unique()) == len(measured) == n_documents
    assert len(reference) == n_documents
    for blocks, whole in ((reference, language.held_out(64)[0]), (measured, language.held_out(64)[1])):
        assert len({tuple(each) for each in blocks.tolist()}) == n_documents
        assert blocks.shape[1] == whole.shape[1]
    every = language.held_out(1000)
    assert all(map(torch.equal, every, (language.reference, language.measured, language.measured_documents)))
