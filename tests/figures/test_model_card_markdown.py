"""Words of somebody else in Markdown, as a reader of Markdown shows them."""

import random

import pytest
from markdown_it import MarkdownIt

from confreg.figures.model_card.markdown import bullets, code_block, plain, sentence, table

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
HOSTILE = (
    "a | b",
    "two\nlines\r\nand\u2028three",
    "<script>alert(1)</script>",
    "# no heading",
    "- no list",
    "3. no list",
    "--- ",
    "`code` and ``more``",
    "*no* _emphasis_ __at__ ~~all~~",
    "[no](link) ![no](image) <https://example.org>",
    "back\\slash at the end\\",
    "&lt; &amp; &#124;",
    "snake_case_name",
    "$x_1$",
)


def shown(markdown: str) -> list[str]:
    """Text of each block; every inline part must be text."""
    blocks = [token for token in READER.parse(markdown) if token.type == "inline"]
    assert {child.type for block in blocks for child in block.children} <= {"text", "text_special"}
    return ["".join(child.content for child in block.children) for block in blocks]


def in_one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_sentence_a_list_a_heading_and_a_cell_show_the_text_as_it_is(text: str) -> None:
    expected = in_one_line(text)
    assert shown(sentence(text)) == [expected]
    assert shown(bullets([text, "next"])) == [expected, "next"]
    assert shown(f"# {plain(text)}, step 4") == [f"{expected}, step 4"]
    assert shown(table((text, "b"), [("c", text), (text, "d")])) == [expected, "b", "c", expected, expected, "d"]


def test_random_signs_are_shown_as_they_are() -> None:
    generator = random.Random(0)
    for _ in range(500):
        text = "".join(generator.choices("ab1 *_`~[]()<>&|\\#-+=.!:$\"'{}\n", k=12))
        assert shown(f"x {plain(text)} y") == [in_one_line(f"x {text} y")]
        if text.strip():
            assert shown(sentence(text)) == [in_one_line(text)]
            assert shown(table(("a",), [(text,)])) == ["a", in_one_line(text)]


def test_a_code_block_ends_only_at_its_end() -> None:
    code = "a: |\n  ```\n  ````\n  # no heading"
    fences = [token for token in READER.parse(code_block(code, "yaml")) if token.type != "inline"]
    assert [(token.type, token.content, token.info) for token in fences] == [("fence", f"{code}\n", "yaml")]


def test_numbers_are_on_the_right_and_words_on_the_left() -> None:
    assert table(("neuron", "norm"), [("1.3", "2.00")]).splitlines() == ["| neuron | norm |", "| --- | --: |", "| 1.3 | 2.00 |"]
