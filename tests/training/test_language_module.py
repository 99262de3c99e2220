"""The module that trains."""

from __future__ import annotations

import csv
import math

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger

from confreg.callbacks import MeasureOnClock, SaveOnClock
from confreg.training.language_module import LanguageModule, learning_rate_share, next_token_loss, parameter_groups


def test_next_token_loss_equals_the_loop_over_predicted_tokens():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 7, generator=generator)
    tokens = torch.randint(0, 7, (3, 5), generator=generator)
    losses = [-logits[b, t].log_softmax(-1)[tokens[b, t + 1]] for b in range(3) for t in range(4)]
    torch.testing.assert_close(next_token_loss(logits, tokens), torch.stack(losses).mean())


def test_the_loss_of_a_uniform_prediction_is_the_log_of_the_vocabulary():
    assert next_token_loss(torch.zeros(2, 4, 8), torch.zeros(2, 4, dtype=torch.long)).item() == pytest.approx(math.log(8))


def test_the_learning_rate_warms_up_linearly_and_ends_at_its_final_share():
    shares = [learning_rate_share(step, 100, 10, 0.1) for step in range(101)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[4] == pytest.approx(0.5)
    assert max(shares) == shares[10] == pytest.approx(1.0)
    assert shares[55] == pytest.approx(0.1 + 0.9 * 0.5)
    assert shares[100] == pytest.approx(0.1)


def test_norms_and_biases_do_not_decay_and_nothing_is_forgotten(tiny_module):
    module = tiny_module()
    decayed, kept = parameter_groups(module.model, 0.5)
    assert decayed["weight_decay"] == 0.5
    assert kept["weight_decay"] == 0.0
    names = {id(each): name for name, each in module.model.named_parameters()}
    assert {names[id(each)].rsplit(".", 1)[-1] for each in decayed["params"]} == {"weight"}
    assert all("ln_" in names[id(each)] or names[id(each)].endswith("bias") for each in kept["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def test_the_seed_decides_the_initial_weights_and_leaves_the_global_generator_alone(tiny_module, weights_of):
    before = torch.get_rng_state()
    first, again, other = (weights_of(tiny_module(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_dropout_is_on_in_training_and_depends_on_the_step_alone(tiny_module, fit, weights_of):
    class Draw(Callback):
        def on_train_batch_end(self, *_):
            torch.rand(3)

    plain, disturbed = tiny_module(dropout=0.3), tiny_module(dropout=0.3)
    fit(plain)
    fit(disturbed, Draw())
    assert all(map(torch.equal, weights_of(plain), weights_of(disturbed)))
    other = tiny_module(dropout=0.0)
    fit(other)
    assert not all(map(torch.equal, weights_of(plain), weights_of(other)))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_resumed_training_ends_with_the_same_weights_to_the_bit(tiny_module, fit, weights_of, tmp_path, accumulate):
    whole = tiny_module(max_steps=8)
    fit(whole, accumulate=accumulate, validation_batches=1)
    fit(tiny_module(max_steps=8), SaveOnClock(tmp_path / "c", [0], resume_every=3), accumulate=accumulate, validation_batches=1, stop_at=5)
    resumed = tiny_module(max_steps=8)
    state = tmp_path / "c" / "resume" / "step=00000003.ckpt"
    trainer = fit(resumed, accumulate=accumulate, validation_batches=1, start_step=3, ckpt_path=state)
    assert trainer.global_step == 8
    assert all(map(torch.equal, weights_of(whole), weights_of(resumed)))


def test_training_lowers_the_loss(tiny_module, fit, tiny_language):
    module = tiny_module(max_steps=60, dropout=0.0)
    blocks = tiny_language.measured
    before = next_token_loss(module(blocks), blocks).item()
    fit(module)
    assert next_token_loss(module.eval()(blocks), blocks).item() < before - 0.1


def test_a_loss_that_is_not_finite_stops_the_training_before_the_update(tiny_module, fit, weights_of):
    module = tiny_module()
    with torch.no_grad():
        module.model.lm_head.weight[0, 0] = torch.inf
    before = weights_of(module)
    with pytest.raises(FloatingPointError, match="optimizer step 0"):
        fit(module)
    assert all(map(torch.equal, before, weights_of(module)))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_validation_loss_that_is_not_finite_is_an_error(tiny_module, fit, value):
    class Break(Callback):
        def on_validation_start(self, trainer, pl_module):
            pl_module.model.lm_head.weight.data[0, 0] = value

    with pytest.raises(FloatingPointError, match=r"val/loss is .* at optimizer step 2"):
        fit(tiny_module(), Break(), validation_batches=1)


def test_validation_reports_loss_and_entropy_in_nats(tiny_module, fit, tiny_language):
    module = tiny_module(max_steps=2)
    trainer = fit(module, validation_batches=2)
    logits = module.eval()(tiny_language.measured[:8])
    log_probs = logits[:, :-1].log_softmax(-1)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(
        next_token_loss(logits, tiny_language.measured[:8]).item(), rel=1e-5
    )
    assert trainer.callback_metrics["val/entropy"].item() == pytest.approx(-(log_probs.exp() * log_probs).sum(-1).mean().item(), rel=1e-5)


def test_tokens_seen_counts_the_targets_of_the_steps_done(tiny_module, fit):
    module = tiny_module(max_steps=3)
    fit(module)
    assert module.tokens_seen == 3 * 4 * 11


@pytest.fixture
def count_compiled(monkeypatch):
    """torch.compile without a compiler; the list of the graphs that were made."""
    graphs, compile_with = [], torch.compile

    def keep(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", lambda function: compile_with(function, backend=keep))
    return graphs


def test_compiled_training_steps_are_the_same_steps_and_everybody_else_has_the_plain_network(
    tiny_module, fit, weights_of, count_compiled, tiny_blocks, tiny_counts, tmp_path
):
    plain, compiled = tiny_module(dropout=0.0), tiny_module(dropout=0.0)
    fit(plain, validation_batches=1)
    compiled.compiles_training = True
    watching = [MeasureOnClock(tiny_blocks, tiny_counts, [0, 2, 6]), SaveOnClock(tmp_path / "c", [6], resume_every=3)]
    fit(compiled, *watching, validation_batches=1)
    assert len(count_compiled) == 1  # one graph for the training steps, none for validation and measurements
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert all(map(torch.equal, weights_of(plain), weights_of(compiled)))
    loaded = LanguageModule.load_from_checkpoint(tmp_path / "c" / "step=00000006.ckpt")
    assert not loaded.compiles_training
    resumed = tiny_module(dropout=0.0)
    fit(resumed, start_step=3, ckpt_path=tmp_path / "c" / "resume" / "step=00000003.ckpt")
    assert all(map(torch.equal, weights_of(plain), weights_of(resumed)))


def test_the_learning_rate_is_logged_beside_the_loss_under_its_own_name(tiny_module, fit, tmp_path):
    logger = CSVLogger(tmp_path, name="csv", version="0")
    fit(tiny_module(max_steps=3), LearningRateMonitor("step"), logger=logger)
    rows = list(csv.DictReader((tmp_path / "csv" / "0" / "metrics.csv").open()))
    rates = {name: [float(row[name]) for row in rows if row[name]] for name in rows[0] if "learning_rate" in name}
    expected = [0.003 * learning_rate_share(step, 3, 2, 1.0) for step in range(3)]
    assert rates == {f"train/learning_rate/{kind}": pytest.approx(expected) for kind in ("matrices", "vectors")}
