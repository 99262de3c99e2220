"""The Bayes-optimal prediction of a language with hidden latents: the forward filter."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def bayes_log_probs(
    log_probs: Float[Tensor, "latent vocab vocab"], blocks: Int[Tensor, "block token"], redraw_probability: float
) -> Float[Tensor, "block token vocab"]:
    """Nats: log P(token t + 1 | tokens up to t) where the latent is redrawn uniformly with a given probability at every token.

    The filter holds log P(latent of token t | tokens up to t). It is uniform at the first token, which says nothing of the latent. In
    logarithms, because a block of another language may be less probable under every latent than a float can be small.

    Args:
        log_probs: float64, log P(next | previous, latent) as [latent, previous, next]; -inf where impossible.
        blocks: token ids; each block is one document from its start.
        redraw_probability: for each token, before it is drawn.

    Returns:
        float64; the distribution at the last position is that of the token after the block.
    """
    (n_latents, _, n_vocabulary), n_tokens = log_probs.shape, blocks.shape[1]
    log_probs = log_probs.double()
    probs, uniform = log_probs.exp(), -math.log(n_latents)
    log_latent = torch.full((len(blocks), n_latents), uniform, dtype=torch.float64)
    kept, redrawn = (torch.tensor(each, dtype=torch.float64).log() for each in (1 - redraw_probability, redraw_probability))
    predictions = torch.empty(*blocks.shape, n_vocabulary, dtype=torch.float64)
    for position in range(n_tokens):
        log_latent = torch.logaddexp(kept + log_latent, redrawn + uniform)  # of the next token
        predictions[:, position] = torch.einsum("bl,lbv->bv", log_latent.exp(), probs[:, blocks[:, position]])
        if position + 1 < n_tokens:
            following = blocks[:, position + 1].expand(n_latents, -1).unsqueeze(2)
            joint = log_latent + log_probs[:, blocks[:, position]].gather(2, following).squeeze(2).T
            evidence = joint.logsumexp(1, keepdim=True)
            log_latent = torch.where(evidence.isfinite(), joint - evidence, log_latent)  # an impossible token tells nothing
    return predictions.log()


def mixture_log_probs(
    weights: Float[Tensor, "part"],
    first_log_probs: Float[Tensor, "part vocab"],
    predictions: Float[Tensor, "part block token vocab"],
    blocks: Int[Tensor, "block token"],
) -> Float[Tensor, "block token vocab"]:
    """Nats: log P(token t + 1 | tokens up to t) for a reader who does not know from which of several languages a block is.

    Each language's own prediction counts as much as its weight times the probability that it gives to the tokens so far.

    Args:
        weights: positive; the prior of each language, up to a factor.
        first_log_probs: float64, of a block's first token in each language.
        predictions: float64, each language's own log P(token t + 1 | tokens up to t).
        blocks: token ids; each block is possible in one of the languages at least.

    Returns:
        float64; the distribution at the last position is that of the token after the block.
    """
    following = blocks[:, 1:].expand(len(weights), -1, -1).unsqueeze(-1)
    each_token = torch.cat([first_log_probs[:, blocks[:, :1]], predictions[:, :, :-1].gather(-1, following).squeeze(-1)], dim=-1)
    evidence = weights.double().log()[:, None, None] + each_token.cumsum(-1)
    return torch.logsumexp(evidence.log_softmax(0).unsqueeze(-1) + predictions, dim=0)
