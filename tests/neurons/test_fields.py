"""The centred fields against means taken one position at a time."""

from collections.abc import Callable

import torch

from confreg.neurons.fields import PositionFields


def test_fields_are_the_logits_and_log_frequencies_without_their_means_under_the_prediction(make_last_layer: Callable) -> None:
    baseline, _ = make_last_layer(unembedding=2.0).fast_inputs()
    fields = PositionFields.of(baseline).of_tokens()
    for position in range(6):
        logits = baseline.scaled_logits[position] + baseline.output_bias
        p = [each / sum(logits.exp().tolist()) for each in logits.exp().tolist()]
        torch.testing.assert_close(fields.probability[position], torch.tensor(p, dtype=torch.float64))
        for name, values in {
            "scaled": baseline.scaled_logits[position],
            "logit": logits,
            "log_frequency": baseline.frequency_log_probs,
        }.items():
            mean = sum(a * b for a, b in zip(p, values.tolist(), strict=True))
            torch.testing.assert_close(getattr(fields, name)[position], values - mean)


def test_parts_of_the_vocabulary_and_of_the_positions_hold_the_same_numbers(make_last_layer: Callable) -> None:
    fields = PositionFields.of(make_last_layer().fast_inputs()[0])
    whole, part = fields.of_tokens(), fields.part(slice(2, 5)).of_tokens(slice(4, 9))
    for name in ("probability", "scaled", "logit", "log_frequency"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[2:5, 4:9]), name


def test_means_under_the_prediction_vanish_in_fp32_too(make_last_layer: Callable) -> None:
    fields = PositionFields.of(make_last_layer(unembedding=3.0, n_vocabulary=400).fast_inputs(torch.float32)[0]).of_tokens()
    assert fields.logit.abs().max() > 30
    for name in ("scaled", "logit", "log_frequency"):
        mean = (fields.probability.double() * getattr(fields, name).double()).sum(-1)
        assert 0 < mean.abs().max() < 1e-5, name
