"""How a model reads its logits from the residual stream, and how its last neurons write to it, on copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from confreg.models.families import by_block, family_of, final_norm, last_down_projection, last_post_mlp_norm, n_layers, output_rows
from confreg.models.layer_writes import written
from confreg.models.norms import NormReading, read_norm
from confreg.models.post_mlp_norm import PostMlpNorm
from confreg.models.unembedding import effective_unembedding
from confreg.neurons.ablation import Ablation, Baseline, PostNorm, some_pairs
from confreg.neurons.frequency import Frequency
from confreg.neurons.writes import GroupWrites, NeuronWrites


@dataclass(frozen=True)
class Readout:
    """The effective unembedding and the last layer's writes, the vocabulary mean and what the norm removes taken out.

    Logits are ``to_logits @ residual / scale + output_bias``, up to a constant for each position that no prediction depends on. A soft-cap
    would notice that constant: in front of one they are the logits themselves.
    """

    unembedding: Float[Tensor, "vocab d_model"]  # CŨ: gain and multiplier folded in, centred over vocab (and over d_model for a LayerNorm)
    output_bias: Float[Tensor, "vocab"]  # C(b + Wβ), the multiplier folded in; not centred behind a soft-cap
    w_out: Float[Tensor, "neuron d_model"]  # Pw: as the final norm sees it, gains and multipliers behind the MLP folded in
    norm: NormReading  # the final one
    layer: int
    softcap: float | None = None
    uncentred: Float[Tensor, "vocab d_model"] | None = None  # Ũ, kept where there is a soft-cap
    post_mlp_norm: PostMlpNorm | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, vocabulary_size: int | None = None) -> Readout:
        """Read a model's last layer; its own weights are left alone.

        Args:
            model: in fp32, or in float64 for a readout in float64.
            vocabulary_size: token ids from here on are left out as padding; None: there are none.

        Raises:
            ValueError: for an architecture or a norm that is not known, or a vocabulary that the model has not.
        """
        family, norm = family_of(model), read_norm(final_norm(model))
        effective, bias = effective_unembedding(model, norm, vocabulary_size)
        mean, softcap = effective.mean(0), family.softcap(model.config)
        rows, behind = output_rows(last_down_projection(model)), last_post_mlp_norm(model)
        multiplier = family.residual_multiplier(model.config)
        post = None if behind is None else PostMlpNorm.of(read_norm(behind), rows, multiplier)
        return cls(
            effective - mean,
            bias - bias.mean() if softcap is None else bias,
            norm.centred(written(rows, post, multiplier)),
            norm,
            n_layers(model) - 1,
            softcap,
            None if softcap is None else effective,
            post,
        )

    @property
    def residual_is_centred(self) -> bool:
        """Whether the final norm takes the residual's mean out."""
        return self.norm.centres

    @property
    def usable_dimensions(self) -> int:
        """Dimensions of the residual that the final norm lets through."""
        return self.unembedding.shape[1] - int(self.residual_is_centred)

    @property
    def to_logits(self) -> Float[Tensor, "vocab d_model"]:
        """What logits are computed with: the unembedding, centred where that changes no prediction."""
        return self.unembedding if self.uncentred is None else self.uncentred

    def baseline(self, tokens: ScoredTokens, frequency: Frequency) -> Baseline:
        """The unablated prediction at the scored positions."""
        scale = self.norm.scale(tokens.residual)
        scaled_logits = tokens.residual @ self.to_logits.T / scale.unsqueeze(-1).to(tokens.residual.dtype)
        return Baseline(scaled_logits, self.output_bias, tokens.targets, scale, frequency.log_probs, frequency.direction, self.softcap)

    def writes(self, w_out: Float[Tensor, "neuron d_model"]) -> NeuronWrites:
        """What neurons with these directions (their own, or a control's) write to the logits."""
        return NeuronWrites(w_out, self.to_logits)

    def ablation(
        self,
        tokens: ScoredTokens,
        replaced: Float[Tensor, "*position neuron"],
        writes: NeuronWrites,
        neurons: slice | Int[Tensor, "some"] = slice(None),
    ) -> Ablation:
        """What replacing each activation changes, if the neurons wrote along the given directions: their own rows, or those of controls.

        Controls write elsewhere in the residual; their activations, and what they change in a norm of the MLP's output, are those of the
        neurons whose places they take: of each direction one, in any order; without ``neurons`` every one in turn.
        """
        exact = writes.w_out.double()  # one large write may be most of the residual: then the new scale is a difference of large numbers
        change = replaced - tokens.activations
        is_fixed = self.norm.fixed_scale is not None
        along_write = self.norm.centred(tokens.residual.double()) @ exact.T
        post = None
        if self.post_mlp_norm is not None:
            assert tokens.mlp_output is not None  # as capture saw to
            norm_change, write_change = self.post_mlp_norm.changes(tokens.mlp_output, change)
            scaling = some_pairs(norm_change, slice(None), neurons), some_pairs(write_change, slice(None), neurons)
            post = self._post_norm(tokens, scaling, lambda normed: normed @ exact.T)
        change = some_pairs(change, slice(None), neurons)
        return Ablation(change, along_write, exact.norm(dim=-1), writes, exact.shape[1], is_fixed, post)

    def group_ablation(
        self, tokens: ScoredTokens, replaced: Float[Tensor, "*position neuron"], groups: Sequence[Int[Tensor, "_"]]
    ) -> Ablation:
        """What replacing all neurons of a group at once changes, for each of several groups."""
        change = (replaced - tokens.activations).double()

        def together(rows: Float[Tensor, "neuron d_model"]) -> Float[Tensor, "position group d_model"]:
            return torch.stack([change[:, group] @ rows[group].double() for group in groups], dim=1)

        moved = together(self.w_out)
        along_write = (moved @ self.norm.centred(tokens.residual.double()).unsqueeze(-1)).squeeze(-1)
        post = None
        if self.post_mlp_norm is not None:
            assert tokens.mlp_output is not None  # as capture saw to
            scaling = self.post_mlp_norm.changes_together(tokens.mlp_output, together(self.post_mlp_norm.rows))
            post = self._post_norm(tokens, scaling, lambda normed: (moved @ normed.unsqueeze(-1)).squeeze(-1))
        writes, is_fixed = GroupWrites(moved.to(self.w_out.dtype), self.to_logits), self.norm.fixed_scale is not None
        return Ablation(torch.ones_like(along_write), along_write, moved.norm(dim=-1), writes, moved.shape[-1], is_fixed, post)

    def _post_norm(self, tokens: ScoredTokens, scaling: tuple[Tensor, Tensor], along_writes: Callable[[Tensor], Tensor]) -> PostNorm:
        assert self.post_mlp_norm is not None
        assert tokens.mlp_output is not None
        normed = self.post_mlp_norm.normed(tokens.mlp_output)
        seen, dtype = self.norm.centred(normed), tokens.residual.dtype
        return PostNorm(
            *scaling,
            normed.to(dtype) @ self.to_logits.T / self.norm.scale(tokens.residual).unsqueeze(-1).to(dtype),
            (tokens.residual.double() * seen).sum(-1),
            seen.square().sum(-1),
            along_writes(seen),
        )


@dataclass(frozen=True)
class ScoredTokens:
    """The scored positions of some blocks, one after the other."""

    activations: Float[Tensor, "position neuron"]
    residual: Float[Tensor, "position d_model"]
    log_probs: Float[Tensor, "position vocab"]  # nats, of the model's own logits; padding left out
    targets: Int[Tensor, "position"]
    clusters: Int[Tensor, "position"]  # the document of each
    mlp_output: Float[Tensor, "position d_model"] | None = None  # of the last MLP, where a norm follows it


@dataclass(frozen=True)
class Captured:
    """What one forward pass left at every position."""

    activations: Float[Tensor, "block token neuron"]  # of the last MLP: the input of its down projection
    residual: Float[Tensor, "block token d_model"]  # after the last block, before the final norm
    logits: Float[Tensor, "*position vocab"]  # of every block and token, or of those that were asked for, one after the other
    mlp_output: Float[Tensor, "block token d_model"] | None = None  # of the last MLP, where a norm follows it: the input of that norm

    def at(self, scored: Bool[Tensor, "block token"], tokens: Int[Tensor, "block token"], documents: Int[Tensor, "block"]) -> ScoredTokens:
        """The scored positions, each with the token that follows it as target. Logits of these positions alone are as good as those of all.

        Raises:
            ValueError: for a target that is no token of the vocabulary, but padding.
        """
        targets = tokens.roll(-1, dims=1)[scored]
        beyond = targets[targets >= self.logits.shape[-1]]
        if len(beyond):
            raise ValueError(
                f"Token {int(beyond[0])} is to be predicted at a scored position, and vocabulary_size is {self.logits.shape[-1]}: it would "
                "be padding. Give a larger vocabulary_size, or do not score that position."
            )
        return ScoredTokens(
            self.activations[scored],
            self.residual[scored],
            (self.logits if self.logits.ndim == 2 else self.logits[scored]).log_softmax(-1),
            targets,
            documents.unsqueeze(1).expand_as(tokens)[scored],
            None if self.mlp_output is None else self.mlp_output[scored],
        )


def capture(
    model: PreTrainedModel,
    tokens: Int[Tensor, "block token"],
    vocabulary_size: int | None = None,
    logits_at: Bool[Tensor, "block token"] | None = None,
) -> Captured:
    """One forward pass in the model's present mode, without gradients; its hooks are gone afterwards.

    Args:
        model: any of the families.
        tokens: ids beyond ``vocabulary_size`` may stand in the context.
        vocabulary_size: logits of token ids from here on are left out as padding; None: there are none.
        logits_at: the positions whose logits are computed: of a large vocabulary they are most of a pass. None: all.
    """
    seen: dict[str, Tensor] = {}
    modules = {"activations": last_down_projection(model), "residual": final_norm(model), "mlp_output": last_post_mlp_norm(model)}
    with torch.no_grad(), ExitStack() as hooks:
        for name, module in modules.items():
            if module is not None:
                hooks.enter_context(_input_of(module, name, seen))
        if logits_at is not None:
            hooks.enter_context(_restricted_to(model.get_output_embeddings(), logits_at))
        logits = model(input_ids=tokens, use_cache=False).logits[..., :vocabulary_size]
    activations, mlp_output = by_block(seen["activations"], tokens.shape), seen.get("mlp_output")
    mlp_output = None if mlp_output is None else by_block(mlp_output, tokens.shape)
    return Captured(activations, seen["residual"], logits if logits_at is None else logits.squeeze(0), mlp_output)


@contextmanager
def _input_of(module: nn.Module, name: str, seen: dict[str, Tensor]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda _module, inputs: seen.__setitem__(name, inputs[0].detach()))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _restricted_to(unembedding: nn.Module, positions: Bool[Tensor, "block token"]) -> Iterator[None]:
    """Within, the unembedding sees these positions alone, as one block: what the model does to its logits afterwards is its own."""
    handle = unembedding.register_forward_pre_hook(lambda _module, inputs: (inputs[0][positions].unsqueeze(0), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()
