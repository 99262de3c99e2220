"""The Bayes-optimal prediction of a language with hidden latents: the forward filter."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def bayes_log_probs(
    log_probs: Float[Tensor, "latent vocab vocab"], blocks: Int[Tensor, "block token"], redraw_probability: float
) -> Float[Tensor, "block token vocab"]:
    """Nats: log P(token t + 1 | tokens up to t) where the latent is redrawn uniformly with a given probability at every token.

    The filter holds P(latent of token t | tokens up to t). It is uniform at the first token, which says nothing of the latent.

    Args:
        log_probs: float64, log P(next | previous, latent) as [latent, previous, next]; -inf where impossible.
        blocks: token ids; each block is one document from its start.
        redraw_probability: for each token, before it is drawn.

    Returns:
        float64; the distribution at the last position is that of the token after the block.
    """
    n_latents, n_tokens = len(log_probs), blocks.shape[1]
    probs = log_probs.double().exp()
    latent = torch.full((len(blocks), n_latents), 1 / n_latents, dtype=torch.float64)
    predictions = torch.empty(*blocks.shape, log_probs.shape[-1], dtype=torch.float64)
    for position in range(n_tokens):
        latent = (1 - redraw_probability) * latent + redraw_probability / n_latents  # the latent of the next token
        given_latent = probs[:, blocks[:, position]]  # latent, block, next
        predictions[:, position] = torch.einsum("bl,lbv->bv", latent, given_latent)
        if position + 1 < n_tokens:
            likelihood = given_latent.gather(2, blocks[:, position + 1].expand(n_latents, -1).unsqueeze(2)).squeeze(2).T
            latent = latent * likelihood
            latent = latent / latent.sum(dim=1, keepdim=True)
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
