"""Parts exchanged after building: what changes, and that nothing else does."""

import pytest
import torch
from torch import Tensor

from confreg.models.build import build_model
from confreg.models.families import BUILDABLE, norm_paths
from confreg.models.norms import kind_of_norm, read_norm
from confreg.models.swaps import swapped_parts
from confreg.settings import ModelSettings, SettingError, check_ranges

SMALL = {"n_layer": 2, "d_model": 16, "d_mlp": 12, "n_head": 2}
OWN = {"gpt2": "layernorm", "gpt_neox": "layernorm", "llama": "rmsnorm"}
KINDS = ("layernorm", "rmsnorm", "frozen", "none")
families = pytest.mark.parametrize("family", sorted(BUILDABLE))
kinds = pytest.mark.parametrize("kind", KINDS)


def build(family: str = "gpt2", **settings: object):
    return build_model(ModelSettings(family=family, **SMALL, **settings), vocabulary_size=19, block_length=10, seed=3)


def kinds_of(model) -> list[str]:
    return [kind_of_norm(model.get_submodule(path)) for path in norm_paths(model)]


@families
@kinds
def test_all_norms_or_the_final_one_alone_become_what_the_settings_say(family: str, kind: str) -> None:
    own = OWN[family]
    assert kinds_of(build(family)) == [own] * 5
    assert kinds_of(build(family, norm=kind)) == [kind] * 5
    assert kinds_of(build(family, norm=kind, norm_scope="final")) == [own] * 4 + [kind]


@families
@kinds
@pytest.mark.parametrize("scope", ["all", "final"])
def test_every_other_weight_starts_as_without_the_swap_and_so_does_the_random_state(family: str, kind: str, scope: str) -> None:
    before = torch.get_rng_state()
    swapped, plain = build(family, norm=kind, norm_scope=scope, output_bias=True), build(family)
    assert torch.equal(torch.get_rng_state(), before)
    names = [name for name, _ in plain.named_parameters() if "ln_" not in name and "norm" not in name]
    assert len(names) > 10
    assert all(torch.equal(swapped.get_parameter(name), plain.get_parameter(name)) for name in names)
    assert swapped.training
    assert all(module.training for module in swapped.modules())


@families
def test_a_swap_to_the_familys_own_norm_gives_the_familys_own_model(family: str) -> None:
    same, plain = build(family, norm=OWN[family]), build(family)
    assert str(same) == str(plain)
    assert all(torch.equal(values, same.state_dict()[name]) for name, values in plain.state_dict().items())
    assert swapped_parts(same) == swapped_parts(plain) == []


@families
@pytest.mark.parametrize("tied", [False, True])
def test_an_output_bias_starts_at_zero_is_trained_and_moves_the_logits_by_itself(family: str, tied: bool) -> None:
    model, plain = build(family, output_bias=True, tied=tied).eval(), build(family, tied=tied).eval()
    bias, tokens = model.get_output_embeddings().bias, torch.arange(10).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(model(input_ids=tokens).logits, plain(input_ids=tokens).logits)
        bias.copy_(torch.linspace(-2, 2, 19))
        torch.testing.assert_close(model(input_ids=tokens).logits, plain(input_ids=tokens).logits + bias)
    assert bias.requires_grad
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied


@families
def test_a_frozen_norm_divides_by_the_mean_scale_that_the_norm_in_its_place_had_at_the_start(family: str) -> None:
    plain, frozen = build(family), build(family, norm="frozen")
    seen: dict[str, Tensor] = {}
    for path in norm_paths(plain):
        plain.get_submodule(path).register_forward_pre_hook(lambda _norm, inputs, path=path: seen.update({path: inputs[0]}))
    tokens = torch.randint(19, (200, 10), generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        expected = plain.eval()(input_ids=tokens).logits.log_softmax(-1)
        found = frozen.eval()(input_ids=tokens).logits.log_softmax(-1)
    for path, residual in seen.items():
        norm = frozen.get_submodule(path)
        centred = residual - residual.mean(-1, keepdim=True) if norm.centres else residual
        assert norm.centres == (OWN[family] == "layernorm")
        assert norm.divisor.item() == pytest.approx(centred.square().mean(-1).sqrt().mean().item(), rel=0.05)
    assert (found - expected).abs().mean() < 0.2 * (expected - expected.mean(-1, keepdim=True)).abs().mean()


def test_the_constant_of_a_frozen_norm_depends_on_the_seed_alone_and_travels_with_the_weights() -> None:
    first = build(norm="frozen")
    torch.rand(7)
    again = build(norm="frozen")
    other = build_model(ModelSettings(**SMALL, norm="frozen"), 19, 10, seed=4)
    divisors = [[read_norm(model.get_submodule(path)).fixed_scale for path in norm_paths(model)] for model in (first, again, other)]
    assert divisors[0] == divisors[1] != divisors[2]
    other.load_state_dict(first.state_dict())
    assert [read_norm(other.get_submodule(path)).fixed_scale for path in norm_paths(other)] == divisors[0]


@families
def test_what_plain_transformers_does_not_have_is_said_part_by_part(family: str) -> None:
    assert swapped_parts(build(family, norm="frozen", norm_scope="final")) == ["final norm: frozen"]
    assert swapped_parts(build(family, norm="none")) == ["norms of the blocks: none", "final norm: none"]
    assert swapped_parts(build(family, output_bias=True, tied=True)) == ["output bias"]
    other = {"layernorm": "rmsnorm", "rmsnorm": "layernorm"}[OWN[family]]
    assert swapped_parts(build(family, norm=other)) == [f"norms of the blocks: {other}", f"final norm: {other}"]


def test_a_scope_without_a_norm_to_put_there_is_refused() -> None:
    with pytest.raises(SettingError, match=r"norm_scope is 'final' and norm is null; expected a norm"):
        check_ranges(ModelSettings(norm_scope="final"))


@families
@kinds
def test_every_swap_trains_all_of_its_weights(family: str, kind: str) -> None:
    model = build(family, norm=kind, output_bias=True)
    tokens = torch.randint(19, (4, 10), generator=torch.Generator().manual_seed(0))
    model(input_ids=tokens, labels=tokens).loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.isfinite().all()]
    assert without == []
