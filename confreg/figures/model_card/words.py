"""What a model card says of a model and of its training, as sentences and facts in plain text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from confreg.figures.findings import large_number
from confreg.figures.model_card.subject import CardSubject
from confreg.figures.run_records import setting_of

PLACES = ("source", "tokenizer", "counts")  # settings that may hold a path
NOT_OF_THE_MODEL = ("logger", "run", "resume")  # where its owner kept it


def model_facts(card: CardSubject) -> list[tuple[str, str]]:
    """Family, sizes and training as (name, value); what the run does not tell is left out."""
    config = card.config
    sizes = {
        "layers": "n_layer",
        "width (`d_model`)": "d_model",
        "neurons in each MLP": "d_mlp",
        "attention heads": "n_head",
        "activation": "activation",
    }
    ends, planned = setting_of(card.facts, "steps"), setting_of(config, "trainer.max_steps")
    of_all = f" of {ends or planned:,}" if isinstance(ends or planned, int) else ""
    facts = {
        "family": setting_of(config, "model.family"),
        "began with": _named(setting_of(config, "model.source"), setting_of(config, "model.revision"), card.facts),
        **{name.replace("`", ""): setting_of(config, f"model.{key}") for name, key in sizes.items()},
        "unembedding": {True: "tied to the embedding", False: "of its own"}.get(setting_of(config, "model.tied")),
        "parameters": f"{card.n_parameters:,}",
        "vocabulary": f"{card.vocabulary_size:,} tokens",
        "longest input": _with_unit(setting_of(config, "data.block_length"), "tokens"),
        "optimizer step": f"{card.step:,}{of_all}",
        "tokens seen": None if card.tokens_seen is None else f"{large_number(card.tokens_seen)} target tokens",
        "seed": setting_of(config, "seed"),
        "run": f"{card.name} (status: {setting_of(card.facts, 'status', 'unknown')})",
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _named(source: Any, revision: Any, facts: Mapping[str, Any]) -> str | None:
    return None if source is None else _model_name(source, facts) + (f" at {revision}" if revision else "")


def _model_name(source: Any, facts: Mapping[str, Any]) -> str:
    return str(source) if began_on_hub(facts) else source_name(str(source))


def began_on_hub(facts: Mapping[str, Any]) -> bool:
    """Whether the weights that a run began with have a name that everybody may see, and not a path."""
    return bool(setting_of(dict(facts), "model.source_kind") == "hub")


def _with_unit(value: Any, unit: str) -> str | None:
    return None if value is None else f"{value:,} {unit}" if isinstance(value, int) else f"{value} {unit}"


def training_text(facts: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on what the model has read."""
    language = setting_of(dict(facts), "language", {})
    if not isinstance(language, Mapping) or "kind" not in language:
        yield "What it was trained on is not known: the run has no run.json that says so."
        return
    if language["kind"] != "mixture":
        yield f"{_beginning(facts, config)} on {_language(language, setting_of(dict(config), 'data', {}))}."
        return
    yield f"{_beginning(facts, config)} on a mixture:"
    for name, part in setting_of(dict(language), "parts", {}).items():
        share = f"{part['share_of_blocks']:.0%} of the blocks, " if "share_of_blocks" in part else ""
        yield f"{name}: {share}{_language(part, {})}."


def _beginning(facts: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """From scratch, or with which weights, and how these were trained."""
    source, sha256 = setting_of(dict(config), "model.source"), setting_of(dict(facts), "model.began_with_sha256")
    if source is None:
        return "It was trained from scratch"
    how = "all of them," if setting_of(dict(config), "model.lora") is None else "by low-rank changes, which are added up here,"
    known = f" (SHA-256 {str(sha256)[:12]}…)" if sha256 else ""
    return f"It began with the weights of {_model_name(source, facts)}{known} and was trained on, {how}"


def _language(language: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    return {"synthetic": _synthetic, "text": _text}.get(str(language.get("kind")), _unknown)(language, data)


def _unknown(language: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    return f"a language of the kind {language.get('kind')}"


def _synthetic(language: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    latents, redraw = language.get("latents", []), language.get("redraw_probability", 0)
    confidence = "with one confidence for all text"
    if len(latents) > 1:
        when = f"drawn afresh with probability {redraw:.4g} at each token" if redraw else "drawn once for each document"
        confidence = f"with a hidden confidence (inverse temperature and back-off weight), {when}"
    return (
        f"a synthetic Markov language of {language.get('vocabulary_size', '?')} tokens, which are numbers, {confidence}. The best "
        "prediction from any context is known exactly. Nobody speaks this language: the model is an instrument for studying confidence"
    )


def _text(language: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    documents, tokens = (setting_of(dict(language), f"{name}.train") for name in ("n_documents", "n_tokens"))
    size = f": {documents:,} documents, {large_number(tokens)} tokens" if isinstance(documents, int) and isinstance(tokens, int) else ""
    commit = setting_of(dict(language), "dataset.commit")
    return f"the text {source_name(str(language.get('source', '?')))}{f' (commit {commit})' if commit else ''}{size}"


def source_name(source: str) -> str:
    """A source as others may see it: of a file or folder its last part only, for the rest of a path tells about a machine."""
    kind, colon, place = source.partition(":")
    is_dataset = kind == "hub" and bool(colon)
    path = place if is_dataset else source
    if is_dataset and not path.startswith((".", "/", "~")):
        return source
    return f"hub:./{Path(path).name}" if is_dataset else Path(path).name


def shared_configuration(config: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what is about its owner's machine: where the run and its caches lie, loggers, folders of texts."""
    shared = {key: _shared(value) for key, value in config.items() if key not in NOT_OF_THE_MODEL}
    if began_on_hub(facts):
        shared["model"]["source"] = config["model"]["source"]
    return shared


def _shared(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    kept = {key: _shared(each) for key, each in value.items() if key != "cache"}
    return {key: source_name(each) if key in PLACES and isinstance(each, str) else each for key, each in kept.items()}


def provenance(card: CardSubject) -> list[tuple[str, str]]:
    """What the numbers depend on, as (name, value)."""
    versions, made = setting_of(card.facts, "versions", {}), setting_of(card.facts, "reproducibility", {})
    commit, changed = setting_of(card.facts, "git.commit"), setting_of(card.facts, "git.dirty")
    listed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    device = ", ".join(f"{name}: {made[name]}" for name in ("device", "threads", "machine") if made.get(name) is not None)
    facts = {
        "weights_sha256": card.weights_sha256,
        "versions": listed,
        "trained on": device,
        "commit of the working directory": f"{commit}{' (with changes)' if changed else ''}" if commit else "",
    }
    return [(name, value) for name, value in facts.items() if value]
