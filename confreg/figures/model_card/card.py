"""The model card of an exported step: README.md as the Hugging Face hub reads it, with figures beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from confreg.figures.findings import findings, why_nothing_is_named
from confreg.figures.model_card.figures import write_figures
from confreg.figures.model_card.look import CardFigure
from confreg.figures.model_card.markdown import bullets, code_block, plain, sentence, table
from confreg.figures.model_card.neurons import measured_facts, neuron_tables
from confreg.figures.model_card.subject import CardSubject, is_of_numbers
from confreg.figures.model_card.words import model_facts, provenance, shared_configuration, training_text
from confreg.figures.naming_rules import naming_rules
from confreg.figures.run_records import setting_of

CARD = "README.md"
TAGS = ("confreg", "language-model", "interpretability", "entropy-neurons", "token-frequency-neurons")
DATASET = re.compile(r"hub:([A-Za-z0-9][\w.-]*/[\w.-]+)")
PAPER = "[Stolfo et al., NeurIPS 2024](https://arxiv.org/abs/2406.16254)"
SNIPPET = """import torch
from transformers import {classes}

folder = "."  # this folder, or its name on the hub
model = AutoModelForCausalLM.from_pretrained(folder)
{tokens}
with torch.no_grad():
    log_probs = model(input_ids=tokens).logits.log_softmax(-1)
print(-(log_probs.exp() * log_probs).sum(-1))  # nats: the entropy of the prediction after each token"""


def write_model_card(card: CardSubject, folder: Path) -> None:
    """Write ``README.md`` and ``figures/*.png`` into a folder that is there.

    Raises:
        OSError: of a full disk or a missing permission.
    """
    figures = write_figures(card.records, folder) if card.records is not None else []
    (folder / CARD).write_bytes(card_text(card, figures).encode("utf-8"))


def card_text(card: CardSubject, figures: list[CardFigure]) -> str:
    """The whole card: front matter, then Markdown. Words that come from the run are shown as they are, whatever signs they hold."""
    blocks = [
        f"---\n{yaml.safe_dump(front_matter(card), sort_keys=False, allow_unicode=True)}---",
        f"# {plain(card.name)}, step {card.step:,}",
        *_about(card),
        "## How to open it",
        *_opening(card),
        f"## What was measured at step {card.step:,}",
        *(_measured(card, figures) if card.records is not None else _not_measured(card)),
        "## Where it comes from",
        *_origin(card),
    ]
    return "\n\n".join(blocks) + "\n"


def front_matter(card: CardSubject) -> dict[str, object]:
    """What the hub reads; the licence is its owner's to choose, so there is none."""
    own = [str(tag) for tag in setting_of(card.config, "logger.wandb.tags", []) if str(tag).strip()]
    dataset = DATASET.fullmatch(str(setting_of(card.facts, "language.source", "")))
    about: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": list(dict.fromkeys([*TAGS, *own])),
    }
    return {**about, "datasets": [dataset[1]]} if dataset else about


def _about(card: CardSubject) -> Iterator[str]:
    family = setting_of(card.config, "model.family")
    of_family = f" of the family {plain(family)}" if family else ""
    yield (
        f"A language model{of_family}, with a measurement of the last-layer neurons that regulate its confidence: "
        f"entropy neurons, which act through the final norm, and token-frequency neurons ({PAPER}). Entropies, losses and effects are in "
        "nats. It was trained, measured and exported with confreg."
    )
    about, *parts = training_text(card.facts, card.config)
    yield sentence(about)
    if parts:
        yield bullets(parts)
    yield table(("model", ""), model_facts(card), n_text_columns=2)


def _opening(card: CardSubject) -> Iterator[str]:
    example = "0 1 2" if is_of_numbers(card.facts) else "The people of"
    tokens, classes = "tokens = torch.tensor([[0, 1, 2]])", "AutoModelForCausalLM"
    if card.has_tokenizer:
        classes = "AutoModelForCausalLM, AutoTokenizer"
        tokens = f'tokenizer = AutoTokenizer.from_pretrained(folder)\ntokens = tokenizer("{example}", return_tensors="pt").input_ids'
    yield code_block(SNIPPET.format(classes=classes, tokens=tokens), "python")
    yield "Plain transformers gives the logits of the trained model, in fp32 on the same machine to the bit."
    if not card.has_tokenizer:
        yield "The run kept no tokenizer, so there is none here: the model reads token ids."


def _measured(card: CardSubject, figures: list[CardFigure]) -> Iterator[str]:
    records = card.records
    assert records is not None
    yield "\n\n".join(map(sentence, findings(records)))
    yield table(("measure", "value"), measured_facts(records), n_text_columns=2)
    yield "### Named neurons"
    yield neuron_tables(records) or why_nothing_is_named(records) or f"No neuron of the measured layer is named at step {card.step:,}."
    if figures:
        yield "### Figures"
        yield from (f"![{plain(figure.alt)}]({figure.path})\n\n*{plain(figure.caption)}*" for figure in figures)
    yield "### How the names were given"
    yield bullets(naming_rules(records.config))


def _not_measured(card: CardSubject) -> Iterator[str]:
    yield (
        f"Nothing: step {card.step:,} was saved, and no neuron was measured at it, so that this card can name none. "
        "That says nothing about whether the model has such neurons."
    )


def _origin(card: CardSubject) -> Iterator[str]:
    yield table(("", ""), provenance(card), n_text_columns=2)
    if card.command:
        yield "The same training:"
        yield code_block(card.command, "bash")
    yield (
        "On the same machine the same configuration, versions and number of threads give the same bits. The configuration, without what is "
        "about that machine:"
    )
    configuration = yaml.safe_dump(shared_configuration(card.config, card.facts), sort_keys=False, allow_unicode=True)
    yield f"<details><summary>config.yaml</summary>\n\n{code_block(configuration, 'yaml')}\n\n</details>"
