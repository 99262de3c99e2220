"""Effects of single neurons, of every family and norm, against the model ablated for real in float64."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from confreg import Blocks, MeasurementRequest, measure
from confreg.models.build import build_model
from confreg.models.families import BUILDABLE, FAMILIES, output_rows
from confreg.models.norms import NORMS, FrozenNorm
from confreg.settings import ModelSettings

N_VOCAB, N_TOKENS, N_NEURONS, D_MODEL = 19, 10, 12, 16
COUNTS = torch.randint(0, 500, (N_VOCAB,), generator=torch.Generator().manual_seed(1))

# where each family keeps its last down projection and its final norm, written by hand
PARTS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "bloom": lambda model: (model.transformer.h[-1].mlp.dense_4h_to_h, model.transformer.ln_f),
    "falcon": lambda model: (model.transformer.h[-1].mlp.dense_4h_to_h, model.transformer.ln_f),
    "gpt2": lambda model: (model.transformer.h[-1].mlp.c_proj, model.transformer.ln_f),
    "gpt_neo": lambda model: (model.transformer.h[-1].mlp.c_proj, model.transformer.ln_f),
    "gpt_neox": lambda model: (model.gpt_neox.layers[-1].mlp.dense_4h_to_h, model.gpt_neox.final_layer_norm),
    "gptj": lambda model: (model.transformer.h[-1].mlp.fc_out, model.transformer.ln_f),
    "mpt": lambda model: (model.transformer.blocks[-1].ffn.down_proj, model.transformer.norm_f),
    "opt": lambda model: (model.model.decoder.layers[-1].fc2, model.model.decoder.final_layer_norm),
    "phi": lambda model: (model.model.layers[-1].mlp.fc2, model.model.final_layernorm),
    "starcoder2": lambda model: (model.model.layers[-1].mlp.c_proj, model.model.norm),
}
LIKE_LLAMA = (
    *("cohere", "cohere2", "gemma", "gemma2", "gemma3_text", "glm4", "granite", "llama", "mistral", "nemotron", "olmo", "olmo2", "olmo3"),
    *("phi3", "qwen2", "qwen3", "smollm3", "stablelm", "vaultgemma"),
)
PARTS |= dict.fromkeys(LIKE_LLAMA, lambda model: (model.model.layers[-1].mlp.down_proj, model.model.norm))
ONE_PLUS = ("GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm", "NemotronLayerNorm1P", "VaultGemmaRMSNorm")  # gains stored as weight - 1


def make_model(family: str, **parts: Any) -> PreTrainedModel:
    """In training mode, with dropout, and with gains and biases that matter."""
    settings = ModelSettings(family=family, n_layer=2, d_model=D_MODEL, d_mlp=N_NEURONS, n_head=2, dropout=0.3, **parts)
    model, generator = build_model(settings, N_VOCAB, N_TOKENS, seed=0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        for module in model.modules():
            if isinstance(module, FrozenNorm):
                module.divisor.fill_(0.8)  # the weights above are much larger than a new model's
    return model


@pytest.fixture
def blocks() -> Blocks:
    generator = torch.Generator().manual_seed(2)
    reference, measured = (torch.randint(0, N_VOCAB, (n, N_TOKENS), generator=generator) for n in (5, 20))
    return Blocks(reference, measured, excluded_ids=(2, 7))


class NormByHand:
    """A final norm as centring, scale, gain and bias."""

    def __init__(self, norm: Any) -> None:
        name, weight = type(norm).__name__, getattr(norm, "weight", None)
        self.centres = norm.centres if name == "FrozenNorm" else "LayerNorm" in name
        self.gain = 1.0 if weight is None else weight + (name in ONE_PLUS)
        self.bias = 0.0 if getattr(norm, "bias", None) is None else norm.bias
        self.epsilon = getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", 1e-5)
        self.constant = {"FrozenNorm": getattr(norm, "divisor", None), "Identity": 1.0}.get(name)

    def centred(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centres else x

    def scale(self, x: Tensor) -> Any:
        return (self.centred(x).square().mean(-1, keepdim=True) + self.epsilon).sqrt() if self.constant is None else self.constant

    def divided(self, x: Tensor, scale: Any) -> Tensor:
        return self.gain * self.centred(x) / scale + self.bias


class Oracle:
    """The real model in float64, its neurons replaced by hooks."""

    def __init__(self, model: PreTrainedModel, blocks: Blocks, without_rounding: Callable) -> None:
        self.model, self.blocks, self.without_rounding = copy.deepcopy(model).double().eval(), blocks, without_rounding
        self.projection, self.norm = PARTS[model.config.model_type](self.model)
        self.by_hand, self.seen, self.scored = NormByHand(self.norm), dict[str, Tensor](), blocks.scored_positions()
        for name, module in (("activations", self.projection), ("residual", self.norm)):
            module.register_forward_pre_hook(lambda _module, inputs, name=name: self.seen.update({name: inputs[0]}))
        self.logits(blocks.reference)
        self.mean = self.seen["activations"].flatten(0, -2).mean(0)
        self.before = self.logits(blocks.measured)[self.scored]
        self.residual, self.activations = self.seen["residual"], self.seen["activations"]

    def logits(self, tokens: Tensor) -> Tensor:
        with torch.no_grad(), self.without_rounding():
            return self.model(input_ids=tokens).logits

    def after(self, neuron: int) -> dict[str, Tensor]:
        """Logits at the scored positions, by the name of the variant."""
        changed = self.activations.clone()
        changed[..., neuron] = self.mean[neuron]
        hook = self.projection.register_forward_pre_hook(lambda _module, _inputs: (changed,))
        total = self.logits(self.blocks.measured)
        new_scale, norm = self.by_hand.scale(self.seen["residual"]), self.by_hand
        frozen = self.through(lambda _module, inputs, _output: norm.divided(inputs[0], norm.scale(self.residual)))
        hook.remove()
        scale_only = self.through(lambda _module, inputs, _output: norm.divided(inputs[0], new_scale))
        return {"total": total[self.scored], "frozen_norm": frozen, "scale_only": scale_only}

    def through(self, norm: Callable) -> Tensor:
        """Logits with another final norm."""
        hook = self.norm.register_forward_hook(norm)
        logits = self.logits(self.blocks.measured)[self.scored]
        hook.remove()
        return logits


def entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs).sum(-1)


# both scopes of every swap, with and without an output bias, tied and untied
SWAPS: list[dict[str, Any]] = [{"tied": True}, {"output_bias": True}]
SWAPS += [{"norm": norm, "norm_scope": "final", "output_bias": True, "tied": True} for norm in sorted(NORMS)]
SWAPS += [{"norm": norm} for norm in sorted(NORMS)]
CASES = [(family, {}, 1) for family in sorted(BUILDABLE)] + [(family, swap, 5) for family in sorted(BUILDABLE) for swap in SWAPS]


def assert_measured_as_by_hooks(model: PreTrainedModel, blocks: Blocks, every: int, without_rounding: Callable) -> None:
    """Every effect of some neurons against the model ablated for real."""
    records, oracle = measure(model, blocks, COUNTS), Oracle(model, blocks, without_rounding)
    targets = blocks.measured.roll(-1, 1)[blocks.scored_positions()].unsqueeze(-1)
    log_q = ((COUNTS + 1).double() / (COUNTS + 1).sum()).log()
    direction = (log_q - log_q.mean()) / (log_q - log_q.mean()).norm()
    before = oracle.before.log_softmax(-1)
    for neuron in range(0, N_NEURONS, every):
        logits = oracle.after(neuron)
        kept = ((oracle.before - logits["total"]) @ direction).unsqueeze(-1)
        logits["frozen_frequency"] = logits["total"] + kept * direction
        loss = {name: -(each.log_softmax(-1) - before).gather(-1, targets).squeeze(-1) for name, each in logits.items()}
        after, frozen = (logits[name].log_softmax(-1) for name in ("total", "frozen_norm"))
        kl_from = (before - after) @ log_q.exp()
        kl_to = (after.exp() * (after - log_q)).sum(-1) - (before.exp() * (before - log_q)).sum(-1)
        expected = {
            "activation_mean": oracle.activations.view(*oracle.scored.shape, -1)[oracle.scored][:, neuron].mean(),
            "loss_effect": loss["total"].abs().mean(),
            "loss_change": loss["total"].mean(),
            **{f"loss_effect_{name}": loss[name].abs().mean() for name in ("frozen_norm", "scale_only", "frozen_frequency")},
            "norm_mediated_share": 1 - loss["frozen_norm"].abs().mean() / loss["total"].abs().mean(),
            "frequency_mediated_share": 1 - loss["frozen_frequency"].abs().mean() / loss["total"].abs().mean(),
            "entropy_effect": (entropy(after) - entropy(before)).abs().mean(),
            "entropy_change": (entropy(after) - entropy(before)).mean(),
            "entropy_effect_frozen_norm": (entropy(frozen) - entropy(before)).abs().mean(),
            "kl_from_frequency_change": kl_from.mean(),
            "kl_from_frequency_effect": kl_from.abs().mean(),
            "kl_to_frequency_effect": kl_to.abs().mean(),
        }
        for name, value in expected.items():
            assert records["neurons"][name][neuron].as_py() == pytest.approx(float(value), abs=2e-6, rel=2e-5), name


@pytest.mark.parametrize(("family", "parts", "every"), CASES, ids=lambda each: str(each).translate({ord(c): None for c in "{}' "}))
def test_effects_of_every_neuron_are_those_of_the_model_ablated_by_hooks(
    family: str, parts: dict[str, Any], every: int, blocks: Blocks, without_rounding: Callable
) -> None:
    assert_measured_as_by_hooks(make_model(family, **parts), blocks, every, without_rounding)


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {*BUILDABLE}))
def test_effects_in_families_that_are_not_trained_here_are_those_of_the_model_ablated_by_hooks(
    family: str, make_of_family: Callable, without_rounding: Callable, blocks: Blocks
) -> None:
    assert_measured_as_by_hooks(make_of_family(family), blocks, 4, without_rounding)


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "phi"])
def test_with_padding_left_out_every_row_is_that_of_the_model_without_those_ids(
    family: str, make_of_family: Callable, blocks: Blocks
) -> None:
    model, n_tokens = make_of_family(family), 15
    cut = copy.deepcopy(model)
    cut.lm_head = torch.nn.Linear(D_MODEL, n_tokens, bias=model.lm_head.bias is not None)
    cut.lm_head.load_state_dict({name: each[:n_tokens] for name, each in model.lm_head.state_dict().items()})
    blocks = dataclasses.replace(blocks, scored=blocks.scored_positions() & (blocks.measured.roll(-1, 1) < n_tokens))
    found = measure(model, blocks, COUNTS, MeasurementRequest(vocabulary_size=n_tokens, control_draws=1))
    expected = measure(cut, blocks, COUNTS[:n_tokens], MeasurementRequest(control_draws=1))
    for table, rows in expected.items():
        assert found[table].drop_columns("weights_sha256").equals(rows.drop_columns("weights_sha256")), table
    whole = measure(model, blocks, COUNTS)["model"]["loss_nats"][0].as_py()
    assert found["model"]["loss_nats"][0].as_py() < whole  # the same targets among fewer tokens


@pytest.mark.parametrize("family", sorted(BUILDABLE))
@pytest.mark.parametrize("norm", ["frozen", "none"])
def test_without_a_scale_of_its_own_no_neuron_acts_through_the_norm_and_none_is_an_entropy_neuron(
    family: str, norm: str, blocks: Blocks
) -> None:
    model = make_model(family, norm=norm)
    with torch.no_grad():  # what would be an entropy neuron behind a norm: a large write that the unembedding hardly sees
        model.get_output_embeddings().weight[:, :4] *= 1e-3
        write = output_rows(PARTS[family](model)[0])
        write[0], write[0, 0], write[0, 1] = 0.0, 30.0, -30.0
    records = measure(model, blocks, COUNTS, MeasurementRequest(control_draws=2))
    neurons = records["neurons"].to_pandas()
    assert (neurons["loss_effect"] > 0).all()
    for measure_of in ("loss_effect", "entropy_effect"):
        assert (neurons[f"{measure_of}_frozen_norm"] == neurons[measure_of]).all()
    assert (neurons["loss_effect_scale_only"] == 0).all()
    for share in ("norm_mediated_share", "entropy_norm_mediated_share"):
        defined = neurons[neurons[share].notna()]
        assert len(defined) >= N_NEURONS - 1
        assert (defined[[share, f"{share}_low", f"{share}_stderr"]] == 0).all(axis=None)
    assert neurons["null_space_share"][0] > 0.99
    row = records["model"].to_pylist()[0]
    assert (row["n_entropy_neurons"], row["n_entropy_neurons_control"]) == (0, 0)
    constant = PARTS[family](model)[1].divisor.item() if norm == "frozen" else 1.0
    assert row["final_norm_scale_mean"] == pytest.approx(constant, rel=1e-12)
    assert row["final_norm_scale_std"] == pytest.approx(0, abs=1e-12)


def test_a_write_along_all_ones_is_seen_where_nothing_centres(blocks: Blocks) -> None:
    effects = {}
    for norm in ("layernorm", "frozen", "rmsnorm", "none"):
        model = make_model("gpt2", norm=norm)
        with torch.no_grad():
            model.transformer.h[-1].mlp.c_proj.weight[1] = 1.5
        effects[norm] = measure(model, blocks, COUNTS)["neurons"]["loss_effect"][1].as_py()
    assert max(effects["layernorm"], effects["frozen"]) < 1e-5 < 1e-3 < min(effects["rmsnorm"], effects["none"])
