import os

import pytest

from confreg.experiments.composition import check_model_names, compose_settings, with_quoted_paths
from confreg.experiments.surroundings import check_surroundings
from confreg.languages.documents import TextError
from confreg.records.run_folder import RunFolder
from confreg.settings import ModelSettings, RunSettings, SettingError, Settings, TextSettings, setting_types


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def own_presets(tmp_path):
    def write(path, text):
        file = tmp_path / "presets" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return tmp_path / "presets"

    return write


def refusal(overrides, config_dir=None):
    with pytest.raises(SettingError) as caught:
        compose_settings(overrides, config_dir)
    assert "Traceback" not in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4
    return str(caught.value)


def misspelt(key):
    """One letter of the last part doubled: no other key is made by it."""
    parent, _, name = key.rpartition(".")
    wrong = name[:2] + name[1] + name[2:]
    return f"{parent}.{wrong}" if parent else wrong


@pytest.mark.parametrize("key", sorted(each for each in setting_types() if not each.endswith(".NAME")))  # a name of one's own is any
def test_every_misspelt_key_is_refused_and_the_right_one_suggested(recompose, key):
    with pytest.raises(SettingError) as caught:
        recompose(f"{misspelt(key)}=1")
    assert str(caught.value).startswith(f"{misspelt(key)} (on the command line) is not a setting. Did you mean {key}?")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.learning_rate=abc", "a number"),
        ("optimizer.learning_rate=off", "a number"),
        ("optimizer.learning_rate=nan", "finite number"),
        ("optimizer.learning_rate=inf", "finite number"),
        ("optimizer.learning_rate=-inf", "finite number"),
        ("optimizer.learning_rate='.inf'", "a number"),
        ("optimizer.learning_rate=0", "above 0"),
        ("optimizer.learning_rate=-1e-3", "above 0"),
        ("optimizer.learning_rate=[1e-3]", "a number"),
        ("optimizer.learning_rate={a: 1}", "a number"),
        ("optimizer.learning_rate=null", "a number"),
        ("optimizer.weight_decay=-1", "at least 0"),
        ("optimizer.beta1=1.0", "below 1"),
        ("optimizer.warmup_steps=1.5", "a whole number"),
        ("model.n_layer=2.5", "a whole number"),
        ("model.n_layer=2.0", "a whole number"),
        ("model.n_layer=0", "at least 1"),
        ("model.n_layer=-3", "at least 1"),
        ("model.n_layer='0x10'", "a whole number"),
        ("model.n_layer=true", "a whole number"),
        ("model.n_layer=two", "a whole number"),
        ("model.n_layer=", "a whole number"),
        ("model.d_model=130", "multiple of n_head"),
        ("model.tied=maybe", "true or false"),
        ("model.tied=0.5", "true or false"),
        ("model.tied=[true]", "true or false"),
        ("model.dropout=1", "below 1"),
        ("model.dropout=-0.1", "at least 0"),
        ("trainer.max_steps=1e3", "a whole number"),
        ("trainer.max_steps=0", "at least 1"),
        ("trainer.precision=8-bit", "one of 32-true"),
        ("trainer.accelerator=tpu9", "one of auto"),
        ("trainer.strategy=deepspeed", "one of auto"),
        ("trainer.profiler=magic", "one of simple"),
        ("trainer.gradient_clip_norm=0", "above 0"),
        ("trainer.threads=0", "at least 1"),
        ("data.block_length=1", "at least 6"),
        ("data.redraw_probability=1.01", "at most 1"),
        ("data.inverse_temperature_min=5", "the first not above the second"),
        ("data.rank=null", "a whole number"),
        ("clock.per_doubling=0", "at least 1"),
        ("clock.max_points=1", "at least 2"),
        ("measure.request.replacement=mean", "one of mean_over_reference_tokens, median_over_reference_tokens, zero"),
        ("measure.request.replacement=fixed_value", "replacement_value is null"),
        ("measure.request.replacement_value=0.5", "expected replacement=fixed_value, or no replacement_value"),
        ("measure.request.replacement_factor=nan", "a finite number"),
        ("measure.request.replacement_seed=-1", "at least 0"),
        ("measure.request.rules.frequency_cosine_min=2", "at most 1"),
        ("callbacks.measure_when=sometimes", "one of clock, validation"),
        ("logger.wandb.mode=on", "one of offline, online, disabled"),
        ("logger.wandb.tags=x", "a list"),
        ("logger.csv=perhaps", "true or false"),
        ("run.name=../x", "a folder below run.root"),
        ("run.name=/tmp/x", "a folder below run.root"),
        ("run.name=''", "a folder below run.root"),
        ("run.experiment='a//b'", "a folder below run.root"),
        ("run.root=''", "expected a folder"),
        ("seed=-1", "at least 0"),
        ("seed=1.5", "a whole number"),
        ("seed=${foo}", "cannot be resolved"),
        ("seed=${oc.env:CONFREG_NOT_SET}", "cannot be resolved"),
        ("seed=???", "is missing"),
        ("model={n_layer: x}", "a whole number"),
        ("+callbacks.extra.spy=3", "a mapping with _target_"),
        ("+callbacks.extra.spy._target_=os.system", "a class below lightning.pytorch.callbacks."),
        ("+logger.extra.spy=3", "a mapping with _target_"),
        ("+logger.extra.spy._target_=os.system", "a class below lightning.pytorch.loggers."),
        ("+logger.extra.spy._target_=lightning.pytorch.callbacks.Timer", "a class below lightning.pytorch.loggers."),
        ("+logger.extra.more._target_=lightning.pytorch.loggers.WandbLogger", "set logger.wandb instead"),
        ("logger.wandb.histogram_bins=513", "at most 512"),
        ("logger.wandb.top_neurons=-1", "at least 0"),
    ],
)
def test_a_bad_value_is_refused_with_its_key_and_what_was_expected(recompose, override, expected, tmp_path):
    with pytest.raises(SettingError) as caught:
        recompose(override)
    key = override.lstrip("+").partition("=")[0].partition("._")[0]
    assert key.rpartition(".")[0] in str(caught.value)
    assert expected in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_value_is_told_in_one_line():
    assert refusal(["optimizer.learning_rate=abc"]) == "optimizer.learning_rate is 'abc' (on the command line); expected a number."


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data=foo", "data is 'foo'; expected one of constant_confidence, fixed_confidence, hub, known_confidence, mixture, sotu, text."),
        ("trainer", "'trainer' has no '='; expected KEY=VALUE"),
        ("=3", "'=3' has no key"),
        ("seed=1,2", "For a sweep over them add -m"),
        ("seed=[1", "cannot be read"),
        ("model=3", "model is 3; expected the name of a preset"),
        ("~model", "nothing can be left out"),
        ("+optimizer.learnig_rate=1", "Did you mean optimizer.learning_rate?"),
        ("lr=1", "Did you mean optimizer.learning_rate?"),
        ("learning_rate=1", "Did you mean optimizer.learning_rate?"),
        ("modell.n_layer=3", "Did you mean model.n_layer?"),
        ("data.source=x", "data.source (on the command line) is a setting of TextSettings, and the chosen data is SyntheticSettings."),
        ("hydra.foo=1", "hydra.foo"),
        ("+hydra.callbacks.spy._target_=os.system", "hydra.callbacks.spy._target_ is 'os.system'"),
    ],
)
def test_an_override_that_hydra_cannot_use_gets_a_message_with_the_next_move(override, message):
    assert message in refusal([override])


def test_a_misspelt_key_in_a_preset_of_ones_own_is_refused_with_the_name_of_the_file(own_presets):
    folder = own_presets("model/mine.yaml", "n_layr: 3\n")
    message = refusal(["model=mine"], folder)
    assert f"model.n_layr (in the file {folder}/model/mine.yaml) is not a setting. Did you mean model.n_layer?" in message


def test_a_wrong_type_in_a_preset_of_ones_own_is_refused_with_the_name_of_the_file(own_presets):
    folder = own_presets("optimizer/mine.yaml", "learning_rate: fast\n")
    message = refusal(["optimizer=mine"], folder)
    assert message == f"optimizer.learning_rate is 'fast' (in the file {folder}/optimizer/mine.yaml); expected a number."


def test_a_preset_that_is_not_yaml_is_refused_with_file_and_line(own_presets):
    folder = own_presets("model/mine.yaml", "n_layer: 3\n  d_model: [\n")
    message = refusal(["model=mine"], folder)
    assert "mine.yaml" in message
    assert "line 2" in message


def test_an_unknown_preset_inside_an_experiment_is_refused_with_the_name_of_the_file(own_presets):
    folder = own_presets("experiment/mine.yaml", "# @package _global_\ndefaults:\n  - override /data: nowhere\n")
    message = refusal(["experiment=mine"], folder)
    assert "data is 'nowhere'" in message
    assert "known_confidence, mixture, sotu, text" in message


def test_a_hostile_target_in_a_preset_of_ones_own_is_refused_before_anything_is_built(own_presets, tmp_path):
    trace = tmp_path / "trace"
    folder = own_presets("callbacks/mine.yaml", f"extra:\n  spy:\n    _target_: os.system\n    command: touch {trace}\n")
    assert "callbacks.extra.spy._target_ is 'os.system'" in refusal(["callbacks=mine"], folder)
    assert not trace.exists()


def test_presets_of_ones_own_are_found_and_closed_by_the_schema(own_presets):
    own_presets("model/mine.yaml", "defaults:\n  - gpt2_tiny\n  - _self_\n\nn_layer: 5\n")
    folder = own_presets("data/mine.yaml", "defaults:\n  - text\n  - _self_\n\nsource: mine.txt\n")
    settings = compose_settings(["model=mine", "data=mine"], folder)
    assert settings.model.n_layer == 5
    assert settings.data == TextSettings(source="mine.txt")


def test_a_folder_of_presets_that_does_not_exist_is_refused():
    assert "--config-dir is 'nowhere'" in refusal([], "nowhere")


def test_a_value_with_an_equals_sign_needs_no_quotes():
    assert compose_settings(["run.name=default/seed=0"]).run.name == "default/seed=0"
    plain = ["seed=1", "run.name='a=b'", "--config-dir=a=b", "logger.wandb.tags=[a=b]", "x==", "model.n_layer=${a}=b"]
    assert with_quoted_paths(plain) == plain


def test_a_run_goes_on_with_its_own_settings():
    asked = Settings(seed=5, model=ModelSettings(n_layer=3), data=TextSettings(source="a.txt"), run=RunSettings(name="default/seed=5"))
    folder = RunFolder.prepare(asked)
    folder.abandon(RuntimeError())
    settings = compose_settings([f"resume={folder.path}", "trainer.progress_bar=false", "logger.wandb.mode=disabled"])
    assert (settings.seed, settings.model, settings.data, settings.resume) == (5, asked.model, asked.data, str(folder.path))
    assert (settings.trainer.progress_bar, settings.logger.wandb.mode) == (False, "disabled")


@pytest.mark.parametrize("other", ["seed=1", "model=gpt2_small", "trainer.max_steps=3"])
def test_a_run_that_goes_on_cannot_be_changed(other):
    assert refusal(["resume=runs/x", other]).startswith(f"{other} came together with resume=runs/x")


def test_a_misspelt_logger_key_beside_resume_is_refused():
    folder = RunFolder.prepare(Settings(run=RunSettings(name="x")))
    assert "logger.wandb.mood" in refusal([f"resume={folder.path}", "logger.wandb.mood=online"])


def test_a_family_or_an_activation_that_does_not_exist_is_answered_with_those_that_do():
    check_model_names(Settings())
    with pytest.raises(SettingError, match=r"model\.activation is 'gulu'; expected one of .*gelu_pytorch_tanh"):
        check_model_names(Settings(model=ModelSettings(activation="gulu")))
    with pytest.raises(SettingError, match=r"model\.family is 'gpt5'; expected one of .*gpt2"):
        check_model_names(Settings(model=ModelSettings(family="gpt5")))


def test_composing_makes_no_folder():
    compose_settings(["debug=limit"])
    refusal(["sed=1"])
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("data.source=nowhere", "data.source is 'nowhere': there is no such file or folder"),
        ("trainer.accelerator=cuda", "trainer.accelerator is 'cuda', which this machine does not have"),
        ("trainer.accelerator=gpu", "trainer.accelerator is 'gpu', which this machine does not have"),
    ],
)
def test_what_this_machine_does_not_have_is_refused_before_any_folder(override, text, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)  # has no float64, and is no answer
    settings = compose_settings(["data=text", override])
    with pytest.raises((SettingError, TextError), match=text):
        check_surroundings(settings)


def test_a_validation_hook_without_validation_is_refused():
    with pytest.raises(SettingError, match="validation_batches is 0"):
        compose_settings(["callbacks=validation", "trainer.validation_batches=0"])
