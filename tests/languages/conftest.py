"""Small texts for the tests of the text language."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from confreg.languages.documents import Documents, TextError
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


@pytest.fixture
def texts_of(tmp_path: Path) -> Callable[..., list[str]]:
    """The texts that a source gives."""

    def read(source: Path | str, **settings: Any) -> list[str]:
        return [document.text for document in Documents(TextSettings(source=str(source), cache=str(tmp_path / "cache"), **settings))]

    return read


@pytest.fixture
def refusal_of(texts_of: Callable[..., list[str]]) -> Callable[..., str]:
    """What is said of a source that is refused: a few printable lines, with what to do."""

    def refuse(source: Path | str, **settings: Any) -> str:
        with pytest.raises(TextError) as refused:
            texts_of(source, **settings)
        said = str(refused.value)
        assert len(said.splitlines()) <= 3
        assert len(said) < 1000
        assert all(line.isprintable() for line in said.split("\n"))
        assert any(move in said for move in MOVES)
        return said

    return refuse


MOVES = (
    "Choose",
    "Convert",
    "remove",
    "Remove",
    "Correct",
    "correct",
    "Set data.",
    "Split",
    "expected",
    "again",
    "check",
    "change",
    "Check",
)


@pytest.fixture
def damage() -> Callable[[Path, str], None]:
    """Damage a file: cut, longer, flipped or gone."""

    def spoil(path: Path, how: str) -> None:
        content = path.read_bytes()
        if how == "cut":
            path.write_bytes(content[:-1])
        elif how == "longer":
            path.write_bytes(content + b"\0")
        elif how == "flipped":
            path.write_bytes(content[:-7] + bytes([content[-7] ^ 1]) + content[-6:])
        else:
            path.unlink()

    return spoil
