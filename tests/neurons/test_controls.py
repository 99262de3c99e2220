"""The two controls: random directions that keep the layer's norms, or each neuron's own norm and null-space share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from confreg.neurons.controls import control_directions, matched_directions, random_directions
from confreg.neurons.weights import null_space_share, singular_directions
from confreg.settings import MeasurementRequest, SettingError, check_ranges

D_MODEL = 16
Draw = Callable[[Tensor, int, bool], Tensor]


@pytest.fixture
def w_out() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, D_MODEL, generator=generator, dtype=torch.float64)
    return (rows - rows.mean(1, keepdim=True)) * torch.rand(400, 1, generator=generator, dtype=torch.float64)


def null_of(k: int, residual_is_centred: bool = True) -> Tensor:
    """The k smallest singular directions of a random unembedding."""
    unembedding = torch.randn(40, D_MODEL, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    directions = singular_directions(unembedding, residual_is_centred)[1]
    return directions[:, directions.shape[1] - k :]


def matched(w_out: Tensor, seed: int, residual_is_centred: bool) -> Tensor:
    return matched_directions(w_out, null_of(5, residual_is_centred), seed, residual_is_centred)


@pytest.fixture(params=[random_directions, matched], ids=["norm_drawn_from_layer", "own_norm_and_null_space_share"])
def draw(request: pytest.FixtureRequest) -> Draw:
    return request.param


def test_norms_of_the_control_are_drawn_with_replacement_from_the_layers_own(w_out: Tensor) -> None:
    real = w_out.norm(dim=1)
    distance, which = (random_directions(w_out, 0, True).norm(dim=1).unsqueeze(1) - real).abs().min(1)
    assert distance.max() < 1e-12
    assert 200 < len(which.unique()) < 300  # 1 - 1/e of 400 is 253: neither a permutation nor a single norm


def test_directions_of_the_control_point_everywhere_alike(w_out: Tensor) -> None:
    directions = torch.nn.functional.normalize(random_directions(w_out.repeat(10, 1), 0, False), dim=1)
    covariance = directions.T @ directions / len(directions)
    assert (covariance - torch.eye(16) / 16).abs().max() < 0.01
    assert directions.mean(0).abs().max() < 0.02


def test_the_matched_control_keeps_every_neurons_own_norm_and_null_space_share(w_out: Tensor) -> None:
    null = null_of(5)
    for rows, tolerance in ((w_out, 1e-12), (w_out.float(), 1e-6)):
        control = matched_directions(rows, null, 3, True)
        torch.testing.assert_close(control.norm(dim=1), rows.norm(dim=1), rtol=tolerance, atol=0)
        torch.testing.assert_close(null_space_share(control, null), null_space_share(rows, null), rtol=0, atol=tolerance)


@pytest.mark.parametrize("residual_is_centred", [True, False])
def test_each_part_of_the_matched_control_points_everywhere_alike_within_its_subspace(w_out: Tensor, residual_is_centred: bool) -> None:
    null = null_of(5, residual_is_centred)
    usable = torch.eye(D_MODEL, dtype=torch.float64) - (1 / D_MODEL if residual_is_centred else 0)
    control = matched_directions(w_out.repeat(20, 1) @ usable, null, 0, residual_is_centred)
    for subspace in (null @ null.T, usable - null @ null.T):
        part = torch.nn.functional.normalize(control @ subspace, dim=1)
        covariance = part.T @ part / len(part)
        assert (covariance - subspace / subspace.trace()).abs().max() < 0.01
        assert part.mean(0).abs().max() < 0.02


def test_the_matched_control_has_nothing_to_do_with_the_neurons_own_direction(w_out: Tensor) -> None:
    null = null_of(5)
    control = matched_directions(w_out.repeat(20, 1), null, 0, True)
    for subspace in (null @ null.T, torch.eye(D_MODEL, dtype=torch.float64) - null @ null.T):
        cosine = torch.cosine_similarity(control @ subspace, w_out.repeat(20, 1) @ subspace, dim=1)
        assert cosine.mean().abs() < 0.02
        assert cosine.abs().mean() > 0.1


@pytest.mark.parametrize("k", [0, 1, D_MODEL - 2, D_MODEL - 1])
def test_no_null_space_or_nothing_but_null_space_leaves_a_random_direction_of_the_same_norm(w_out: Tensor, k: int) -> None:
    control = matched_directions(w_out, null_of(k), 7, True)
    torch.testing.assert_close(control.norm(dim=1), w_out.norm(dim=1))
    torch.testing.assert_close((control @ null_of(k)).norm(dim=1), (w_out @ null_of(k)).norm(dim=1))
    assert control.mean(1).abs().max() < 1e-12
    assert not torch.allclose(control, w_out)


def test_a_neuron_that_writes_nothing_and_one_that_writes_into_the_null_space_alone_stay_so() -> None:
    null = null_of(5)
    control = matched_directions(torch.stack([torch.zeros(D_MODEL, dtype=torch.float64), 3 * null[:, 0]]), null, 0, True)
    assert (control[0] == 0).all()
    assert control[1].norm().item() == pytest.approx(3)
    assert null_space_share(control, null)[1].item() == pytest.approx(1)


def test_the_control_is_centred_where_the_norm_centres_and_only_there(w_out: Tensor, draw: Draw) -> None:
    assert draw(w_out, 0, True).mean(1).abs().max() < 1e-12
    assert draw(w_out, 0, False).mean(1).abs().max() > 0.01


def test_the_control_is_a_function_of_its_seed_and_keeps_shape_and_dtype(w_out: Tensor, draw: Draw) -> None:
    first, second = draw(w_out.float(), 7, True), draw(w_out.float(), 7, True)
    assert torch.equal(first, second)
    assert first.shape == w_out.shape
    assert first.dtype == torch.float32
    assert not torch.allclose(first, draw(w_out.float(), 8, True))


def test_drawing_the_control_leaves_the_global_generator_alone(w_out: Tensor, draw: Draw) -> None:
    before = torch.get_rng_state()
    draw(w_out, 0, True)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_name_in_the_request_picks_the_control(w_out: Tensor) -> None:
    null = null_of(5)
    assert MeasurementRequest().control == "norm_drawn_from_layer"
    assert torch.equal(control_directions("norm_drawn_from_layer", w_out, null, 3, True), random_directions(w_out, 3, True))
    own = control_directions("own_norm_and_null_space_share", w_out, null, 3, True)
    assert torch.equal(own, matched_directions(w_out, null, 3, True))
    with pytest.raises(ValueError, match="control is 'norm'; expected norm_drawn_from_layer or own_norm_and_null_space_share"):
        control_directions("norm", w_out, null, 3, True)
    with pytest.raises(SettingError, match="control"):
        check_ranges(MeasurementRequest(control="norm"))
