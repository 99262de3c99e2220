"""Effects of single neurons, of every family and norm, against the model ablated for real in float64."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from confreg import Blocks, MeasurementRequest, measure
from confreg.models.build import build_model
from confreg.models.families import FAMILIES, output_rows
from confreg.models.norms import NORMS, FrozenNorm
from confreg.settings import ModelSettings

N_VOCAB, N_TOKENS, N_NEURONS, D_MODEL = 19, 10, 12, 16
COUNTS = torch.randint(0, 500, (N_VOCAB,), generator=torch.Generator().manual_seed(1))

# where each family keeps its last down projection and its final norm, written by hand
PARTS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "gpt2": lambda model: (model.transformer.h[-1].mlp.c_proj, model.transformer.ln_f),
    "gpt_neox": lambda model: (model.gpt_neox.layers[-1].mlp.dense_4h_to_h, model.gpt_neox.final_layer_norm),
    "llama": lambda model: (model.model.layers[-1].mlp.down_proj, model.model.norm),
}


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


def norm_by_hand(norm: Any) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Any, Any]:
    """How it centres, its scale of what is centred, its gain and its bias."""

    def centre(x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True)

    def same(x: Tensor) -> Tensor:
        return x

    def deviation(epsilon: float) -> Callable[[Tensor], Tensor]:
        return lambda x: (x.square().mean(-1, keepdim=True) + epsilon).sqrt()

    by_class: dict[str, Callable[[], Any]] = {
        "LayerNorm": lambda: (centre, deviation(norm.eps), norm.weight, norm.bias),
        "LlamaRMSNorm": lambda: (same, deviation(norm.variance_epsilon), norm.weight, 0.0),
        "FrozenNorm": lambda: (
            same if norm.bias is None else centre,
            lambda _: norm.divisor,
            norm.weight,
            0.0 if norm.bias is None else norm.bias,
        ),
        "Identity": lambda: (same, lambda _: 1.0, 1.0, 0.0),
    }
    return by_class[type(norm).__name__]()


def predictions(model: PreTrainedModel, blocks: Blocks, neuron: int | None = None, frozen_norm: bool = False) -> tuple[Tensor, Tensor]:
    """Log-probabilities and activations at the scored positions, one neuron replaced by hooks on the real model in float64."""
    model = copy.deepcopy(model).double().eval()
    projection, norm, seen = *PARTS[model.config.model_type](model), {}
    centre, scale_of, gain, bias = norm_by_hand(norm)

    def look(name: str) -> Any:
        return lambda _module, inputs: seen.update({name: inputs[0]})

    handles = [projection.register_forward_pre_hook(look("activations")), norm.register_forward_pre_hook(look("residual"))]
    with torch.no_grad():
        model(input_ids=blocks.reference)
        mean = seen["activations"].mean((0, 1))
        log_probs = model(input_ids=blocks.measured).logits.log_softmax(-1)
        activations, scale = seen["activations"], scale_of(centre(seen["residual"]))
        for handle in handles:
            handle.remove()
        if neuron is not None:
            changed = activations.clone()
            changed[..., neuron] = mean[neuron]
            projection.register_forward_pre_hook(lambda _module, _inputs: (changed,))
            if frozen_norm:
                norm.register_forward_hook(lambda _module, x, _out: gain * centre(x[0]) / scale + bias)
            log_probs = model(input_ids=blocks.measured).logits.log_softmax(-1)
    scored = blocks.scored_positions()
    return log_probs[scored], activations[scored]


def entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs).sum(-1)


# both scopes of every swap, with and without an output bias, tied and untied
SWAPS: list[dict[str, Any]] = [{"tied": True}, {"output_bias": True}]
SWAPS += [{"norm": norm, "norm_scope": "final", "output_bias": True, "tied": True} for norm in sorted(NORMS)]
SWAPS += [{"norm": norm} for norm in sorted(NORMS)]
CASES = [(family, {}, 1) for family in sorted(FAMILIES)] + [(family, swap, 5) for family in sorted(FAMILIES) for swap in SWAPS]


@pytest.mark.parametrize(("family", "parts", "every"), CASES, ids=lambda each: str(each).translate({ord(c): None for c in "{}' "}))
def test_effects_of_every_neuron_are_those_of_the_model_ablated_by_hooks(
    family: str, parts: dict[str, Any], every: int, blocks: Blocks
) -> None:
    model = make_model(family, **parts)
    records = measure(model, blocks, COUNTS)
    targets = blocks.measured.roll(-1, 1)[blocks.scored_positions()].unsqueeze(-1)
    log_q = ((COUNTS + 1).double() / (COUNTS + 1).sum()).log()
    before, activations = predictions(model, blocks)
    for neuron in range(0, N_NEURONS, every):
        after, frozen = (predictions(model, blocks, neuron, frozen_norm)[0] for frozen_norm in (False, True))
        loss, loss_frozen = (-(each - before).gather(-1, targets).squeeze(-1) for each in (after, frozen))
        kl_from = (before - after) @ log_q.exp()
        kl_to = (after.exp() * (after - log_q)).sum(-1) - (before.exp() * (before - log_q)).sum(-1)
        expected = {
            "activation_mean": activations[:, neuron].mean(),
            "loss_effect": loss.abs().mean(),
            "loss_change": loss.mean(),
            "loss_effect_frozen_norm": loss_frozen.abs().mean(),
            "norm_mediated_share": 1 - loss_frozen.abs().mean() / loss.abs().mean(),
            "entropy_effect": (entropy(after) - entropy(before)).abs().mean(),
            "entropy_change": (entropy(after) - entropy(before)).mean(),
            "entropy_effect_frozen_norm": (entropy(frozen) - entropy(before)).abs().mean(),
            "kl_from_frequency_change": kl_from.mean(),
            "kl_from_frequency_effect": kl_from.abs().mean(),
            "kl_to_frequency_effect": kl_to.abs().mean(),
        }
        for name, value in expected.items():
            assert records["neurons"][name][neuron].as_py() == pytest.approx(float(value), abs=2e-6, rel=2e-5), name


@pytest.mark.parametrize("family", sorted(FAMILIES))
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
