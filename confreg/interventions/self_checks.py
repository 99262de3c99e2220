"""Whether interventions and their closed form act on this very model as they should, before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from confreg.interventions.downstream import CleanPass
from confreg.interventions.last_layer_checks import check_last_layer
from confreg.interventions.replacing import Intervention, InterventionError, site_activations
from confreg.interventions.suspicions import SelfCheckError, relative_error
from confreg.languages.blocks import Blocks
from confreg.models.checkpoints import weights_sha256
from confreg.models.families import family_of, n_heads, n_layers
from confreg.models.undisturbed import undisturbed

BLOCKS, TOKENS = 2, 32  # of the measured ones, at most: a few positions tell, and a large vocabulary makes each of them dear
TOLERANCE = 1e-4  # relative to the largest value, for products in full fp32
SHAKING = 0.1  # standard deviation of what is added to gains and biases


def check_interventions(model: PreTrainedModel, blocks: Blocks) -> None:
    """Compare what is predicted of a model with what it does, on a few of its measured blocks; it is left as it was, to the bit.

    Everything is looked at twice: in the model as it is, and with every gain and bias moved, on copies: in a fresh model they are ones and
    zeros, and a misread one would not show before it has learned something.

    Args:
        model: the plain causal language model that will be measured, in fp32.
        blocks: what will be measured.

    Raises:
        SelfCheckError: at the first check that fails.
        ValueError: for an architecture or a norm that is not in the tables.
    """
    before = _state_of(model)
    tokens = blocks.measured[:BLOCKS, :TOKENS].to(model.device)
    with torch.no_grad(), torch.autocast(model.device.type, enabled=False), undisturbed(model):
        check_replacing_by_itself(model, tokens, TOLERANCE)
        check_last_layer(model, tokens, TOLERANCE)
        with _shaken(model):
            check_last_layer(model, tokens, TOLERANCE, "with its gains and biases moved, as training moves them, ")
    for name, after in _state_of(model).items():
        if after != before[name]:
            raise SelfCheckError(f"{name} are not what they were before the checks", "a hook or a module that changes the model in a pass")


def _state_of(model: PreTrainedModel) -> dict[str, object]:
    """All that observing must leave alone."""
    modules = list(model.modules())
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if model.device.type == "cuda" else [])]
    return {
        "the weights": weights_sha256(model),
        "the random states": [each.tolist() for each in states],
        "the modes of its modules": [each.training for each in modules],
        "the hooks of its modules": [(*each._forward_hooks, *each._forward_pre_hooks, vars(each).get("forward")) for each in modules],
    }


@contextmanager
def _shaken(model: nn.Module) -> Iterator[None]:
    """Within, copies with noise stand in the place of all gains and biases; afterwards the model's own are back, the same objects."""
    generator, kept = torch.Generator().manual_seed(0), list[tuple[nn.Module, str, nn.Parameter]]()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.ndim < 2:
                kept.append((module, name, parameter))
    copies: dict[int, nn.Parameter] = {}  # one for parameters that are tied
    try:
        for module, name, parameter in kept:
            if id(parameter) not in copies:
                noise = SHAKING * torch.randn(parameter.shape, generator=generator).to(parameter)
                copies[id(parameter)] = nn.Parameter(parameter.detach() + noise, requires_grad=False)
            setattr(module, name, copies[id(parameter)])
        yield
    finally:
        for module, name, parameter in kept:
            setattr(module, name, parameter)


def check_replacing_by_itself(model: PreTrainedModel, tokens: Int[Tensor, "block token"], tolerance: float) -> None:
    """Neurons and heads of the first and the last layer, replaced by themselves: nothing changes, and the intervention was really there.

    Raises:
        SelfCheckError: where something changes, or an intervention could not act.
    """
    try:
        clean = CleanPass.of(model, tokens)
        knows_heads = family_of(model).attention_output is not None and n_heads(model) > 0
        for layer in sorted({0, n_layers(model) - 1}):
            for kind, heads in (("neurons", False), *([("heads", True)] if knows_heads else [])):
                own = site_activations(model, tokens, layer, heads)
                every = tuple(range(n_heads(model) if heads else own.shape[-1]))
                after, _ = next(clean.predictions([Intervention(layer, own, **{kind: every})]))
                error = relative_error(after, clean.log_probs)
                if not error <= tolerance and clean.log_probs.isfinite().all():
                    what = f"the {kind} of layer {layer}, replaced by themselves, change the prediction"
                    suspicion = "passes that differ by themselves (a random state or a memory of the model's own)"
                    raise SelfCheckError(what, suspicion, error, tolerance)
    except InterventionError as error:
        suspicion = "a fused MLP or attention, or a wrong path in the family's row"
        raise SelfCheckError(f"an intervention could not act ({error})", suspicion) from error
