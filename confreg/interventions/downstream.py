"""What a model predicts when neurons or attention heads of any layer are replaced, by running again only what lies above them.

One pass with nothing replaced keeps the residual after every block. An intervention then runs the model with the blocks below its own
giving what they gave before, so that masks, positions, norms after the MLP and whatever follows the unembedding are the model's own;
many interventions of a layer share a run, one after the other along the batch axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from confreg.interventions.replacing import Intervention, InterventionError, replaced
from confreg.models.families import blocks_of, final_norm, n_heads, output_rows
from confreg.models.norms import read_norm
from confreg.models.undisturbed import undisturbed

MEMORY_BYTES = 2**29  # of what interventions in one run add
# alive at once in a run, for each copy of the batch: logits with both norms and a soft-cap, hidden states, the site, attention maps
TENSORS_OF_VOCABULARY, TENSORS_OF_RESIDUAL, TENSORS_OF_SITE, TENSORS_OF_ATTENTION = 5, 12, 4, 2


def downstream_log_probs(
    model: PreTrainedModel,
    tokens: Int[Tensor, "block token"],
    intervention: Intervention,
    frozen_final_norm: bool = False,
    vocabulary_size: int | None = None,
) -> Float[Tensor, "block token vocab"]:
    """Log-probabilities of a model in which something is replaced; nats, the model left as it was.

    Args:
        model: its weights' dtype is that of the whole computation, so a copy in float64 gives an exact reference.
        tokens: every position takes part; an intervention acts at all of them.
        intervention: what is replaced, in which layer, by what.
        frozen_final_norm: every position keeps the scale of the final norm that it has with nothing replaced: the direct effect.
        vocabulary_size: token ids from here on are padding, outside of every prediction; None: there are none.

    Raises:
        ValueError: for a layer, neuron, head or shape that does not fit the model.
        InterventionError: where the intervention could not act.
    """
    return next(downstream_log_probs_of_each(model, tokens, [intervention], frozen_final_norm, vocabulary_size))


def downstream_log_probs_of_each(
    model: PreTrainedModel,
    tokens: Int[Tensor, "block token"],
    interventions: Iterable[Intervention],
    frozen_final_norm: bool = False,
    vocabulary_size: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[Float[Tensor, "block token vocab"]]:
    """The same for each of many interventions, in their order; those that follow one another in a layer share runs.

    Args:
        memory_bytes: bound on what the copies of the batch in one run need; a run holds at least one.
    """
    clean = CleanPass.of(model, tokens, vocabulary_size)
    for total, frozen in clean.predictions(interventions, frozen_final_norm, memory_bytes):
        yield total if frozen is None else frozen


@dataclass(frozen=True)
class CleanPass:
    """What a model's pass over some blocks left, with nothing replaced: all that running a part of it again needs."""

    model: PreTrainedModel
    tokens: Int[Tensor, "block token"]
    after_block: list[Tensor]  # residual after each transformer block, [block token d_model]
    residual: Tensor  # what enters the final norm, [block token d_model]
    log_probs: Tensor  # nats, [block token vocab]
    gives_tuples: bool  # blocks of some families give the residual as the first of several things
    vocabulary_size: int | None  # token ids from here on are left out as padding

    @classmethod
    def of(cls, model: PreTrainedModel, tokens: Int[Tensor, "block token"], vocabulary_size: int | None = None) -> CleanPass:
        """Run the model once."""
        outputs, seen = list[Tensor | tuple[Tensor, ...]](), list[Tensor]()
        tokens = tokens.to(model.device)
        with ExitStack() as hooks:
            for block in blocks_of(model):
                handle = block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
                hooks.callback(handle.remove)
            hooks.callback(final_norm(model).register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0])).remove)
            log_probs = _log_probs(model, tokens, vocabulary_size)
        if len(seen) != 1 or len(outputs) != len(blocks_of(model)):
            raise InterventionError(
                f"One pass of this {type(model).__name__} called {len(outputs)} blocks and its final norm {len(seen)} times; "
                f"expected {len(blocks_of(model))} blocks and one norm. Look at its row in confreg.models.families."
            )
        after_block = [output if isinstance(output, Tensor) else output[0] for output in outputs]
        return cls(model, tokens, after_block, seen[0], log_probs, not isinstance(outputs[0], Tensor), vocabulary_size)

    def predictions(
        self, interventions: Iterable[Intervention], with_frozen_final_norm: bool = False, memory_bytes: int = MEMORY_BYTES
    ) -> Iterator[tuple[Float[Tensor, "block token vocab"], Float[Tensor, "block token vocab"] | None]]:
        """Log-probabilities after each intervention, and those with the final norm's scale frozen where they are asked for."""
        for together in self._stacks(interventions, memory_bytes):
            total, residual = self._rerun(together)
            total = total.unflatten(0, (len(together), -1))
            if with_frozen_final_norm:
                frozen = self._with_frozen_scale(residual, len(together))
                yield from zip(total, frozen.unflatten(0, (len(together), -1)), strict=True)
            else:
                yield from ((each, None) for each in total)

    def _stacks(self, interventions: Iterable[Intervention], memory_bytes: int) -> Iterator[list[Intervention]]:
        """Interventions in front of one projection that run together."""
        for projection, group in groupby(interventions, key=lambda each: each.projection(self.model)):
            elements = TENSORS_OF_VOCABULARY * self.log_probs.shape[-1] + TENSORS_OF_RESIDUAL * self.residual.shape[-1]
            elements += TENSORS_OF_SITE * len(output_rows(projection))
            elements += TENSORS_OF_ATTENTION * n_heads(self.model) * self.tokens.shape[1]
            bytes_of_one = self.tokens.numel() * elements * self.log_probs.element_size()
            together, alike = max(1, memory_bytes // bytes_of_one), list(group)
            yield from (alike[start : start + together] for start in range(0, len(alike), together))

    def _rerun(self, together: Sequence[Intervention]) -> tuple[Tensor, Tensor]:
        """Log-probabilities, and what enters the final norm, of as many copies of the batch as there are interventions."""
        layer, n_copies, seen = together[0].layer, len(together), list[Tensor]()
        below = blocks_of(self.model)[:layer]
        given = self.after_block[layer - 1].repeat(n_copies, 1, 1) if below else self.residual
        handle = final_norm(self.model).register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        try:
            with self._blocks_giving(below, given), replaced(self.model, together):
                return _log_probs(self.model, self.tokens.repeat(n_copies, 1), self.vocabulary_size), seen[0]
        finally:
            handle.remove()

    def _with_frozen_scale(self, residual: Tensor, n_copies: int) -> Tensor:
        """Log-probabilities of a residual that is divided by the scale of the clean one; the blocks below are left out."""
        norm = final_norm(self.model)
        reading = read_norm(norm)
        with torch.no_grad():
            normed = reading.applied(residual, reading.scale(self.residual).repeat(n_copies, 1))
        with self._blocks_giving(blocks_of(self.model), residual), _giving([norm], normed):
            return _log_probs(self.model, self.tokens.repeat(n_copies, 1), self.vocabulary_size)

    def _blocks_giving(self, blocks: Sequence[nn.Module], residual: Tensor) -> AbstractContextManager[None]:
        return _giving(blocks, (residual,) if self.gives_tuples else residual)


def _log_probs(model: PreTrainedModel, tokens: Tensor, vocabulary_size: int | None) -> Tensor:
    with undisturbed(model), torch.no_grad(), torch.autocast(model.device.type, enabled=False):
        logits: Tensor = model(input_ids=tokens, use_cache=False).logits
        return logits[..., :vocabulary_size].log_softmax(-1)


@contextmanager
def _giving(modules: Sequence[nn.Module], output: object) -> Iterator[None]:
    """Within, the modules give this output instead of computing theirs. What stood in place of their ``forward`` comes back afterwards."""
    before = [vars(module).get("forward") for module in modules]
    for module in modules:
        vars(module)["forward"] = lambda *_inputs, **_more: output
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            vars(module).pop("forward")
            if forward is not None:
                vars(module)["forward"] = forward
