"""Parts of a freshly built model exchanged for others, everything else untouched: its norms, and a bias of its unembedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from confreg.models.families import family_of, norm_paths
from confreg.models.norms import NORMS, kind_of_norm, read_norm
from confreg.settings import ModelChoice, ModelSettings, PretrainedSettings

CALIBRATION_BLOCKS, CALIBRATION_TOKENS = 8, 64  # of random tokens: at the start the scale hardly differs between positions


def swap_parts(model: PreTrainedModel, settings: ModelSettings, block_length: int, seed: int) -> None:
    """Exchange what the settings ask for; no other weight changes, and no random state.

    A frozen norm divides by the mean scale that the norm in its place has in the model as it was built, over random tokens: so the
    model starts as nearly the same function, and what differs later is that no position has a scale of its own.

    Args:
        model: as its family builds it.
        settings: ``norm``, ``norm_scope`` and ``output_bias`` say what to exchange.
        block_length: tokens of the longest block.
        seed: of the random tokens.
    """
    if settings.output_bias:
        unembedding = model.get_output_embeddings()
        unembedding.bias = nn.Parameter(torch.zeros(len(unembedding.weight)))
    if settings.norm is not None:
        _swap_norms(model, settings, block_length, seed)


def _swap_norms(model: PreTrainedModel, settings: ModelSettings, block_length: int, seed: int) -> None:
    assert settings.norm is not None
    paths = norm_paths(model)[-1:] if settings.norm_scope == "final" else norm_paths(model)
    changing = [path for path in paths if kind_of_norm(model.get_submodule(path)) != settings.norm]
    scales = _mean_scales(model, changing, block_length, seed) if settings.norm == "frozen" else dict.fromkeys(changing, 1.0)
    for path in changing:
        old = read_norm(model.get_submodule(path))
        new = NORMS[settings.norm].make(settings.d_model, settings.norm_epsilon, old, scales[path])
        model.set_submodule(path, new.train(model.training))


def _mean_scales(model: PreTrainedModel, paths: list[str], block_length: int, seed: int) -> dict[str, float]:
    """What each norm divides by, on average over random tokens."""
    generator = torch.Generator().manual_seed(seed)
    shape = (CALIBRATION_BLOCKS, min(CALIBRATION_TOKENS, block_length))
    tokens = torch.randint(model.config.vocab_size, shape, generator=generator)
    scales: dict[str, float] = {}

    def note(path: str, norm: nn.Module, residual: Tensor) -> None:
        scales[path] = read_norm(norm).scale(residual).mean().item()

    handles = [
        model.get_submodule(path).register_forward_pre_hook(lambda norm, inputs, path=path: note(path, norm, inputs[0])) for path in paths
    ]
    was_training = model.training
    with torch.no_grad():
        model.eval()(input_ids=tokens, use_cache=False)
    model.train(was_training)
    for handle in handles:
        handle.remove()
    return scales


def swapped_parts(model: PreTrainedModel, settings: ModelChoice | None = None) -> list[str]:
    """What a model has that its family in plain transformers does not; empty where plain transformers can load its weights.

    Args:
        model: of a family that is trained from scratch.
        settings: what it began as: in a pretrained model nothing was exchanged. None: from scratch.
    """
    if isinstance(settings, PretrainedSettings):
        return []
    *inner, final = (kind_of_norm(model.get_submodule(path)) for path in norm_paths(model))
    own = family_of(model).norm
    swapped = [f"norms of the blocks: {name}" for name in sorted({*inner} - {own})]
    swapped += [f"final norm: {final}"] if final != own else []
    return swapped + (["output bias"] if model.get_output_embeddings().bias is not None else [])
