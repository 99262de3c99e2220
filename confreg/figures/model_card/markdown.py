"""Words that somebody else chose as plain text in Markdown: no name of a run can end a cell, a line or a code block."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

# An underscore within a word is plain already.
SIGNS = re.compile(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))")
AT_THE_START = re.compile(r"^(\d*)([#+=.)-])")  # of a line these make a heading, a list or a rule


def plain(text: object) -> str:
    """Text that is shown as it is, in one line, within a line: signs of Markdown with a backslash, signs of HTML as entities."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split())
    return SIGNS.sub(r"\\\1", escape(line, quote=False))


def sentence(text: object) -> str:
    """The same where a line begins."""
    return AT_THE_START.sub(r"\1\\\2", plain(text))


def code_block(text: str, language: str = "") -> str:
    """A fenced block, its fence longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def bullets(sentences: Iterable[str]) -> str:
    """A list, one line for each sentence, which is shown as it is."""
    return "\n".join(f"- {sentence(each)}" for each in sentences)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], n_text_columns: int = 1) -> str:
    """A table whose cells are shown as they are; columns after the first ``n_text_columns`` are numbers, on the right."""
    rule = ["---" if index < n_text_columns else "--:" for index in range(len(head))]
    lines = [[plain(cell) for cell in head], rule, *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
