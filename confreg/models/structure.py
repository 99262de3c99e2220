"""Where an architecture without a row in the families keeps its parts: found by running it on a few tokens and looking at what passes.

What cannot be seen is asked for as an equality of the pass: the unembedding's output is the logits, and what the last block adds to the
residual is what its attention and its MLP write. A multiplier, a soft-cap or a mixture of experts breaks one of them, and is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from confreg.models.family import Family
from confreg.models.norms import read_norm
from confreg.models.undisturbed import undisturbed

BLOCKS, TOKENS = 2, 4  # not alike: a residual that is laid out in another order is seen
Changes = Mapping[nn.Module, Callable[[Tensor], Tensor]]  # of the outputs of some modules


class PartNotFoundError(ValueError):
    """A part that a measurement needs and that a pass does not show; the message names it."""


@dataclass(frozen=True)
class Call:
    """A module in a pass: what it was given and what it made of it, each the first tensor of several."""

    path: str
    module: nn.Module
    given: Tensor
    made: Tensor

    @property
    def parent(self) -> str:
        return self.path.rpartition(".")[0]

    @property
    def is_of_every_position(self) -> bool:
        """Unlike an expert, which gets some of them."""
        return self.made.shape[:-1].numel() == BLOCKS * TOKENS


def find_family(model: PreTrainedModel) -> Family:
    """The parts of a decoder whose blocks add an MLP's writes to one residual; it is left as it was.

    Raises:
        PartNotFoundError: naming what is missing.
    """
    if model.config.is_encoder_decoder:
        raise PartNotFoundError("it is an encoder-decoder, and a decoder alone is expected")
    head = model.get_output_embeddings()
    if head is None:
        raise PartNotFoundError("no output embedding (get_output_embeddings gives None)")
    calls, logits = _pass_of(model, {head: _known_logits})
    final = _final_norm(_head_call(calls, head, logits), calls)
    path, blocks = _blocks(model, calls, final)
    last = next(call for call in calls if call.module is blocks[-1])
    inside = [call for call in calls if call.path.startswith(f"{last.path}.")]
    return _LastBlock(model, path, list(blocks), last, inside).family(final)


def _pass_of(model: PreTrainedModel, changes: Changes) -> tuple[list[Call], Tensor]:
    """Every module's call in a pass over a few tokens, in the order in which they end, and the logits; some outputs are changed."""
    calls: list[Call] = []

    def note(path: str, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        given, made = _first_tensor((*inputs, *named.values())), _first_tensor(output)
        if given is None or made is None:
            return None
        changed = changes[module](made) if module in changes else made
        calls.append(Call(path, module, given.clone(), changed.clone()))  # what somebody adds to them in place comes later
        return changed if module in changes else None

    tokens = torch.arange(BLOCKS * TOKENS, device=model.device).view(BLOCKS, TOKENS)
    with undisturbed(model), torch.no_grad(), torch.autocast(model.device.type, enabled=False), ExitStack() as hooks:
        for path, module in model.named_modules():
            if path:
                hooks.callback(module.register_forward_hook(partial(note, path), with_kwargs=True).remove)
        try:
            logits: Tensor = model(input_ids=tokens, use_cache=False).logits
        except Exception as error:  # whatever an unknown model may raise
            raise PartNotFoundError(f"a pass over token ids alone failed ({type(error).__name__}: {error})") from error
    return calls, logits


def _first_tensor(values: Any) -> Tensor | None:
    if isinstance(values, Tensor):
        return values
    several = values.values() if isinstance(values, Mapping) else values if isinstance(values, list | tuple) else ()
    return next((each for each in several if isinstance(each, Tensor)), None)


def _known_logits(logits: Tensor) -> Tensor:
    """Large enough for any soft-cap to bend them."""
    return torch.linspace(-300, 300, logits.numel()).to(logits).view(logits.shape)


def _head_call(calls: list[Call], head: nn.Module, logits: Tensor) -> Call:
    found = [call for call in calls if call.module is head]
    if len(found) != 1:
        raise PartNotFoundError(f"the output embedding is called {len(found)} times in a pass, and once is expected")
    if not _equal(found[0].made.to(logits), logits):
        raise PartNotFoundError(
            "the readout does not rebuild the logits, since they are not the output embedding's output: a multiplier, a soft-cap or a bias "
            "stands behind it, which a pass does not show"
        )
    return found[0]


def _final_norm(at_head: Call, calls: list[Call]) -> Call:
    """The first single module that makes what the unembedding gets: dropout behind it makes the same."""
    final = next((call for call in _single(calls) if _equal(call.made, at_head.given)), None)
    if final is None:
        raise PartNotFoundError("no final norm before the unembedding")
    if not _is_readable(final.module):
        raise PartNotFoundError(f"no readable final norm before the unembedding: {type(final.module).__name__}")
    if final.given.shape[:-1] != (BLOCKS, TOKENS):
        raise PartNotFoundError(f"no residual of block x token x d_model before the final norm, but one of {tuple(final.given.shape)}")
    return final


def _blocks(model: PreTrainedModel, calls: list[Call], final: Call) -> tuple[str, nn.ModuleList | nn.Sequential]:
    """The longest list of modules that each run once, of which the last gives what the final norm gets."""
    times, made = Counter(call.module for call in calls), {call.module: call.made for call in calls}
    lists = [(path, each) for path, each in model.named_modules() if isinstance(each, nn.ModuleList | nn.Sequential) and len(each)]
    found = [each for each in lists if all(times[block] == 1 for block in each[1]) and _equal(made[each[1][-1]], final.given)]
    if not found:
        raise PartNotFoundError("no list of blocks, each run once, the last of which gives what the final norm gets")
    return max(found, key=lambda each: len(each[1]))


@dataclass(frozen=True)
class _LastBlock:
    """The last block, and the calls inside it."""

    model: PreTrainedModel
    path: str  # of the list of blocks
    blocks: list[nn.Module]
    call: Call
    inside: list[Call]

    def family(self, final: Call) -> Family:
        projections = list(self._projections(final.given.shape[-1]))
        mixing = [each for each, mixes in projections if mixes]
        apart = [each for each, mixes in projections if not mixes]
        if len(apart) != 1:
            several = "several linear layers" if apart else "no linear layer"
            raise PartNotFoundError(
                f"{several} to d_model whose input comes from its own position alone in the last block, and one MLP with one down "
                f"projection is expected{''.join(f', {self._within(each)}' for each in apart)} (a mixture of experts has none)"
            )
        behind = self._behind(apart[0])
        if behind is not None and not _is_readable(behind.module):
            raise PartNotFoundError(f"no readable norm behind the down projection: {type(behind.module).__name__}")
        self._check_that_writes_add_up([*apart, *mixing])
        post = None if behind is None else self._within(behind)
        self._check_that_all_have(self._within(apart[0]), (nn.Linear, Conv1D), "linear layer")
        if post is not None:
            self._check_that_all_have(post, (nn.Module,), "norm")
        attention = self._attention_output(mixing)
        return Family(self.path, self._within(apart[0]), attention, self._norms(), final.path, post_mlp_norm=post)

    def _projections(self, d_model: int) -> Iterator[tuple[Call, bool]]:
        """Of each module the last linear layer to d_model behind others, and whether what enters it comes from other positions too."""
        linear = [call for call in self.inside if isinstance(call.module, nn.Linear | Conv1D) and call.is_of_every_position]
        for parent in dict.fromkeys(call.parent for call in linear):
            together = [call for call in linear if call.parent == parent]
            to_d_model = [index for index, call in enumerate(together) if call.made.shape[-1] == d_model]
            if to_d_model and to_d_model[-1] > 0:
                yield together[to_d_model[-1]], self._mixes_positions(together[: to_d_model[-1]], together[to_d_model[-1]])

    def _mixes_positions(self, before: list[Call], projection: Call) -> bool:
        """Whether other positions notice when the first one changes in the linear layers of the same module: in attention they do."""
        calls, _ = _pass_of(self.model, {call.module: _with_first_position_moved for call in before})
        given = next(call.given for call in calls if call.module is projection.module)
        moved, still = (each.reshape(BLOCKS, TOKENS, -1)[:, 1:] for each in (given, projection.given))
        return not _close(moved, still, still)

    def _behind(self, projection: Call) -> Call | None:
        """What gets a projection's output and makes something else of it."""
        return next((call for call in _single(self.inside) if _equal(call.given, projection.made)), None)

    def _check_that_writes_add_up(self, projections: list[Call]) -> None:
        behind = [self._behind(each) or each for each in projections]
        writes = torch.stack([each.made.reshape(self.call.made.shape).double() for each in behind]).sum(0)
        if self.call.given.shape != self.call.made.shape or not _close(self.call.made.double() - self.call.given, writes, self.call.made):
            names = ", ".join(self._within(each) for each in behind)
            raise PartNotFoundError(
                f"what the last block adds to the residual is not what {names} give: a multiplier, a mixture of experts or a norm of the "
                "residual itself stands there, which a pass does not show"
            )

    def _check_that_all_have(self, path: str, kinds: tuple[type[nn.Module], ...], what: str) -> None:
        for layer, block in enumerate(self.blocks):
            if not isinstance(dict(block.named_modules()).get(path), kinds):
                raise PartNotFoundError(f"no {what} {path} in block {layer}, as the last block has it")

    def _attention_output(self, mixing: list[Call]) -> str | None:
        if len(mixing) != 1:
            return None
        path = self._within(mixing[0])
        return path if all(path in dict(block.named_modules()) for block in self.blocks) else None

    def _norms(self) -> tuple[str, ...]:
        own = (call for call in _single(self.inside) if call.parent == self.call.path)
        return tuple(self._within(call) for call in own if call.made.shape == call.given.shape and _is_readable(call.module))

    def _within(self, call: Call) -> str:
        return call.path.removeprefix(f"{self.call.path}.")


def _single(calls: list[Call]) -> Iterator[Call]:
    """Modules without modules of their own that change what they are given."""
    return (call for call in calls if not any(call.module.children()) and not _equal(call.made, call.given))


def _with_first_position_moved(values: Float[Tensor, "*position column"]) -> Float[Tensor, "*position column"]:
    moved = values.clone()
    moved.view(BLOCKS, TOKENS, -1)[:, 0] += 1 + values.abs().max()
    return moved


def _is_readable(norm: nn.Module) -> bool:
    try:
        read_norm(norm)
    except ValueError:
        return False
    return True


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)


def _close(actual: Tensor, expected: Tensor, of: Tensor) -> bool:
    """Up to rounding, also that of values ``of`` which these may be small differences."""
    unit = torch.finfo(of.dtype).eps
    tolerance = unit**0.5 * expected.abs().max() + 8 * unit * of.abs().max()
    return bool(((actual - expected).abs() <= tolerance).all())
