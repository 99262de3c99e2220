"""What every neuron shares at a position: the prediction, and the centred fields over the vocabulary in which changes are expanded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.linalg import vecdot

from confreg.neurons.ablation import Baseline


@dataclass(frozen=True)
class Fields:
    """For some tokens of the vocabulary: the prediction, and three fields whose mean under the whole prediction is zero."""

    probability: Float[Tensor, "position part"]  # p
    scaled: Float[Tensor, "position part"]  # ẑ - E ẑ
    logit: Float[Tensor, "position part"]  # z - E z
    log_frequency: Float[Tensor, "position part"]  # log q - E log q

    def of_tokens(self, tokens: slice) -> Fields:
        """Those of some tokens."""
        return Fields(*(each[:, tokens] for each in (self.probability, self.scaled, self.logit, self.log_frequency)))

    def part(self, positions: slice) -> Fields:
        """Those of some positions."""
        return Fields(*(each[positions] for each in (self.probability, self.scaled, self.logit, self.log_frequency)))


@dataclass(frozen=True)
class FieldSizes:
    """How large two of the fields are at each position; nats."""

    largest_scaled: Float[Tensor, "position 1"]  # |ẑ - E ẑ|
    spread_scaled: Float[Tensor, "position 1"]  # standard deviation of ẑ
    largest_log_frequency: Float[Tensor, "position 1"]
    spread_log_frequency: Float[Tensor, "position 1"]


@dataclass(frozen=True)
class PositionFields:
    """The prediction at some positions with its means over the vocabulary; nats."""

    baseline: Baseline
    log_partition: Float[Tensor, "position"]
    mean_scaled: Float[Tensor, "position"]  # E ẑ
    mean_logit: Float[Tensor, "position"]  # E z
    mean_log_frequency: Float[Tensor, "position"]  # E log q

    @classmethod
    def of(cls, baseline: Baseline) -> PositionFields:
        """Means under the unablated prediction, summed in float64."""
        logits = baseline.logits()
        log_partition = logits.logsumexp(-1)
        p = (logits - log_partition.unsqueeze(-1)).exp()
        mass = p.sum(-1, dtype=torch.float64)  # 1 but for the rounding of the partition, which a mean of many nats would feel

        def mean(field: Float[Tensor, "*position vocab"]) -> Float[Tensor, "position"]:
            return ((p * field).sum(-1, dtype=torch.float64) / mass).to(logits.dtype)

        of_logits = mean(logits)
        of_scaled = of_logits if baseline.has_scaled_logits else mean(baseline.scaled_logits)
        return cls(baseline, log_partition, of_scaled, of_logits, mean(baseline.frequency_log_probs))

    @cached_property
    def every(self) -> Fields:
        """The fields over the whole vocabulary."""
        return self.of_tokens()

    def forget_the_vocabulary(self) -> None:
        """Give up the fields that are kept; they are computed anew when asked for."""
        self.__dict__.pop("every", None)

    @cached_property
    def sizes(self) -> FieldSizes:
        """Of the scaled logits and the log-frequencies."""
        every, found = self.every, []
        for field in (every.scaled, every.log_frequency):
            largest = torch.maximum(field.amax(-1, keepdim=True), -field.amin(-1, keepdim=True))
            found += [largest, vecdot(every.probability, field.square()).sqrt().unsqueeze(-1)]
        return FieldSizes(*found)

    def mean_unembedding(self, unembedding: Float[Tensor, "vocab d_model"]) -> Float[Tensor, "position d_model"]:
        """E W_U; that of the last one asked for is kept."""
        known = self.__dict__.get("_mean_unembedding")
        if known is None or known[0] is not unembedding:
            known = self.__dict__["_mean_unembedding"] = unembedding, self.every.probability @ unembedding
        return known[1]

    @cached_property
    def top(self) -> Int[Tensor, "position"]:
        """The most likely token."""
        return self.baseline.logits().argmax(-1)

    @cached_property
    def largest_logit(self) -> Float[Tensor, "position 1"]:
        """Largest |z - E z|."""
        logits = self.baseline.logits()
        return torch.maximum(logits.amax(-1) - self.mean_logit, self.mean_logit - logits.amin(-1)).unsqueeze(-1)

    def of_tokens(self, tokens: slice = slice(None)) -> Fields:
        """The fields over some of the vocabulary."""
        if "every" in self.__dict__:
            return self.every.of_tokens(tokens)
        logits = self.baseline.logits(tokens)
        logit, is_scaled = logits - self.mean_logit.unsqueeze(-1), self.baseline.has_scaled_logits
        return Fields(
            (logits - self.log_partition.unsqueeze(-1)).exp(),
            logit if is_scaled else self.baseline.scaled_logits[:, tokens] - self.mean_scaled.unsqueeze(-1),
            logit,
            self.baseline.frequency_log_probs[tokens] - self.mean_log_frequency.unsqueeze(-1),
        )

    def part(self, positions: slice | Tensor) -> PositionFields:
        """Those of some positions."""
        means = (self.log_partition, self.mean_scaled, self.mean_logit, self.mean_log_frequency)
        return PositionFields(self.baseline.part(positions), *(each[positions] for each in means))
