"""Every kind of norm: what it does, and what a measurement reads of it."""

import importlib
import re

import pytest
import torch
from torch import Tensor, nn

from confreg.models.norms import EPSILONS, NORMS, OF_TRANSFORMERS, FrozenNorm, NormReading, kind_of_norm, read_norm
from confreg.settings import ModelSettings

D_MODEL = 6


@pytest.fixture
def residual() -> Tensor:
    return torch.randn(4, 5, D_MODEL, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.7


def norm_of(kind: str, centres: bool = True, scale: float = 0.5) -> nn.Module:
    """With gain and bias that matter."""
    norm, generator = NORMS[kind].make(D_MODEL, 1e-3, NormReading(centres), scale).double(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return norm


def test_the_settings_offer_the_norms_of_the_table() -> None:
    choices = ModelSettings.__dataclass_fields__["norm"].metadata["choices"]
    assert set(choices) == set(NORMS)


@pytest.mark.parametrize("centres", [True, False])
@pytest.mark.parametrize("kind", sorted(NORMS))
def test_the_reading_of_a_norm_rebuilds_what_it_does(kind: str, centres: bool, residual: Tensor) -> None:
    norm = norm_of(kind, centres)
    reading = read_norm(norm)
    rebuilt = reading.centred(residual) / reading.scale(residual).unsqueeze(-1)
    rebuilt = rebuilt if reading.gain is None else rebuilt * reading.gain
    rebuilt = rebuilt if reading.bias is None else rebuilt + reading.bias
    torch.testing.assert_close(norm(residual), rebuilt, atol=1e-5, rtol=1e-5)  # transformers' RMSNorm works in fp32
    assert kind_of_norm(norm) == kind


def test_a_frozen_norm_is_the_norm_it_stands_for_where_the_scale_is_its_constant(residual: Tensor) -> None:
    original = nn.LayerNorm(D_MODEL, eps=0.0).double()
    with torch.no_grad():
        original.weight.copy_(torch.linspace(0.5, 2, D_MODEL))
        original.bias.copy_(torch.linspace(-1, 1, D_MODEL))
    one = residual[:1, :1]
    frozen = FrozenNorm(D_MODEL, centres=True, divisor=one.std(correction=0).item()).double()
    frozen.load_state_dict(original.state_dict(), strict=False)
    torch.testing.assert_close(frozen(one), original(one), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(original(3 * one), original(one))
    torch.testing.assert_close(frozen(3 * one) - original.bias, 3 * (frozen(one) - original.bias))


def test_a_frozen_norm_keeps_its_constant_with_its_weights_and_no_optimizer_sees_it() -> None:
    norm = FrozenNorm(D_MODEL, centres=False, divisor=0.25)
    assert norm.bias is None
    assert norm.state_dict()["divisor"].item() == 0.25
    assert [name for name, _ in norm.named_parameters()] == ["weight"]
    assert "divisor=0.25" in repr(norm)


def test_the_scale_is_the_same_at_every_position_for_frozen_and_none_alone(residual: Tensor) -> None:
    scales = {kind: read_norm(norm_of(kind)).scale(residual) for kind in NORMS}
    assert {kind for kind, scale in scales.items() if scale.std() == 0} == {"frozen", "none"}
    assert scales["frozen"].unique().tolist() == [0.5]
    assert scales["none"].unique().tolist() == [1.0]
    torch.testing.assert_close(scales["layernorm"], (residual.var(-1, correction=0) + 1e-3).sqrt())
    torch.testing.assert_close(scales["rmsnorm"], (residual.square().mean(-1) + 1e-3).sqrt())


def test_a_norm_without_a_row_is_refused_by_its_class_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"the norm GroupNorm in confreg.models.norms; expected one of LayerNorm, .*FrozenNorm"):
        read_norm(nn.GroupNorm(2, D_MODEL))


class ShardedLayerNorm(nn.LayerNorm):
    """As sharding and parametrising libraries make them: another class, the same function."""


class OnePlusLayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.layer_norm(input, self.normalized_shape, self.weight + 1, self.bias, self.eps)


def test_a_class_that_inherits_and_computes_the_same_is_read_as_its_parent() -> None:
    norm = ShardedLayerNorm(D_MODEL)
    reading = read_norm(norm)
    assert kind_of_norm(norm) == "layernorm"
    assert (reading.centres, reading.epsilon) == (True, norm.eps)
    assert reading.gain is norm.weight


class SquaredGain(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, self.normalized_shape, self.weight, self.eps) * self.weight


class EpsilonOutside(nn.RMSNorm):
    """Divides by the root of the mean square plus epsilon."""

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.square().mean(-1, keepdim=True).sqrt() + (self.eps or 0.0))


def test_a_class_that_inherits_and_computes_something_else_is_not_one_that_a_model_is_built_with() -> None:
    with pytest.raises(ValueError, match=r"No row for the norm OnePlusLayerNorm .* one plus the weight"):
        kind_of_norm(OnePlusLayerNorm(D_MODEL))


@pytest.mark.parametrize("norm", [SquaredGain(D_MODEL, eps=1e-5), EpsilonOutside(D_MODEL, eps=1e-5), SquaredGain(D_MODEL)])
def test_a_class_that_does_nothing_that_can_be_read_is_refused(norm: nn.Module) -> None:
    with pytest.raises(ValueError, match=rf"No row for the norm {type(norm).__name__} .* one plus the weight"):
        read_norm(norm)


def unknown(centres: bool, adds_one: bool, epsilon_name: str) -> nn.Module:
    """A norm of a class that no table has."""

    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(D_MODEL)), nn.Parameter(torch.zeros(D_MODEL))
            setattr(self, epsilon_name, 1e-3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.float()  # as most of them do
            x = x - x.mean(-1, keepdim=True) if centres else x
            x = x * (x.square().mean(-1, keepdim=True) + getattr(self, epsilon_name)).rsqrt()
            return x * (self.weight + adds_one) + self.bias

    return Unknown()


@pytest.mark.parametrize("centres", [True, False])
@pytest.mark.parametrize("adds_one", [True, False])
@pytest.mark.parametrize("epsilon_name", EPSILONS)
def test_a_norm_of_an_unknown_class_is_read_as_what_it_is_seen_to_do(
    centres: bool, adds_one: bool, epsilon_name: str, residual: Tensor
) -> None:
    norm, state = unknown(centres, adds_one, epsilon_name), torch.get_rng_state()
    norm.register_forward_hook(lambda *_: pytest.fail("a try is no pass"))
    reading = read_norm(norm)
    assert (reading.centres, reading.epsilon) == (centres, 1e-3)
    assert reading.bias is norm.bias
    assert torch.equal(reading.gain, norm.weight + adds_one)
    torch.testing.assert_close(norm.forward(residual).double(), reading.applied(residual, reading.scale(residual)), atol=1e-5, rtol=1e-5)
    assert torch.equal(torch.get_rng_state(), state)
    assert (norm.weight == 1).all()


def test_a_class_of_a_known_name_from_elsewhere_is_refused() -> None:
    impostor = type("GemmaRMSNorm", (nn.Module,), {})
    with pytest.raises(ValueError, match="No row for the norm GemmaRMSNorm"):
        read_norm(impostor())


@pytest.mark.parametrize("name", sorted(OF_TRANSFORMERS))
def test_norms_of_transformers_are_read_as_they_compute(name: str, residual: Tensor) -> None:
    kind = class_of_transformers(name)
    norm = kind(D_MODEL)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    found = read_norm(norm).applied(residual.float(), read_norm(norm).scale(residual.float()))
    torch.testing.assert_close(norm(residual.float()), found, atol=1e-5, rtol=1e-5)


def class_of_transformers(name: str) -> type[nn.Module]:
    """Where it is defined, which is where its family keeps all of its modules."""
    family = re.split("RMSNorm|LayerNorm", name)[0].lower()
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    kind: type[nn.Module] = getattr(module, name)
    return kind


@pytest.mark.parametrize("epsilon", [None, 1e-2])
@pytest.mark.parametrize("has_gain", [True, False])
def test_the_rms_norm_of_torch_is_read_with_and_without_a_gain_and_an_epsilon(
    residual: Tensor, epsilon: float | None, has_gain: bool
) -> None:
    norm = nn.RMSNorm(D_MODEL, eps=epsilon, elementwise_affine=has_gain)
    small = 1e-3 * residual.float()
    found = read_norm(norm).applied(small, read_norm(norm).scale(small))
    torch.testing.assert_close(norm(small), found, atol=1e-6, rtol=1e-6)
