"""Small texts for the tests of the text language."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from confreg.settings import TextSettings

WORDS = [
    "the",
    "confidence",
    "of",
    "a",
    "model",
    "is",
    "carried",
    "by",
    "neurons",
    "whose",
    "writes",
    "no",
    "token",
    "can",
    "see",
    "and",
    "tells",
]


@pytest.fixture
def write_text() -> Callable[[int, int], str]:
    """A text of so many words, a function of its seed: sentences, lines and paragraphs."""

    def write(seed: int, n_words: int) -> str:
        draw = random.Random(seed)
        return "".join(draw.choice(WORDS) + draw.choices([" ", ". ", ",\n", "\n\n"], [20, 3, 2, 1])[0] for _ in range(n_words))

    return write


@pytest.fixture
def text_folder(tmp_path: Path, write_text: Callable[[int, int], str]) -> Path:
    """Twenty documents of different lengths; the fourth is shorter than one block."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(20):
        n_words = 3 if number == 3 else 60 + 17 * (number % 7)
        (folder / f"{number:02}.txt").write_text(write_text(number, n_words), encoding="utf-8")
    return folder


@pytest.fixture
def settings(text_folder: Path, tmp_path: Path) -> TextSettings:
    return TextSettings(
        source=str(text_folder), vocabulary_size=300, block_length=16, n_reference=7, n_measured=9, cache=str(tmp_path / "cache")
    )
