import pytest

from confreg.settings.targets import (
    LOGGER_PREFIXES,
    complaints_about_callbacks,
    complaints_about_loggers,
    complaints_about_targets,
    is_allowed,
)

HOSTILE = [
    "os.system",
    "builtins.eval",
    "subprocess.run",
    "torch.load",
    "numpy.load",
    "pandas.read_pickle",
    "torch.hub.load",
    "pickle.loads",
    "transformers.AutoModel.from_pretrained",
    "lightning.pytorch.LightningModule.load_from_checkpoint",
    "lightning.pytorch.callbacks.model_checkpoint.os.system",
    "lightning.pytorch.callbacks.ModelCheckpoint.__init__.__globals__",
    "lightning.pytorch.callbacks.early_stopping.torch.load",
    "lightning.pytorch.callbacks.model_checkpoint.Path",
    "lightning.pytorch.callbacks.",
    "lightning.pytorch.callbacks._x",
    "lightning.pytorch.callbacksX.EarlyStopping",
    " lightning.pytorch.callbacks.EarlyStopping",
    "confreg.callbacks.clock.os.system",
    "confreg.measurement.measure",
    "",
    None,
    3,
    ["os.system"],
]


@pytest.mark.parametrize("target", HOSTILE)
def test_a_target_outside_the_allow_list_is_refused_by_name_and_never_imported(target):
    assert not is_allowed(target)
    (complaint,) = complaints_about_callbacks({"spy": {"_target_": target}}, "extra")
    assert complaint.startswith(f"extra.spy._target_ is {target!r}; expected a class below lightning.pytorch.callbacks.")


@pytest.mark.parametrize("target", ["lightning.pytorch.callbacks.EarlyStopping", "confreg.callbacks.MeasureOnClock"])
def test_callbacks_of_lightning_and_of_confreg_are_allowed(target):
    assert list(complaints_about_callbacks({"one": {"_target_": target, "monitor": "val/loss"}}, "extra")) == []


@pytest.mark.parametrize("target", [*HOSTILE, "lightning.pytorch.callbacks.EarlyStopping", "lightning.pytorch.loggers.mlflow.os.system"])
def test_a_logger_is_a_class_of_lightnings_loggers_and_nothing_else(target):
    assert not is_allowed(target, LOGGER_PREFIXES)
    (complaint,) = complaints_about_loggers({"spy": {"_target_": target}}, "extra")
    assert complaint.startswith(f"extra.spy._target_ is {target!r}; expected a class below lightning.pytorch.loggers.")
    assert list(complaints_about_loggers({"board": {"_target_": "lightning.pytorch.loggers.TensorBoardLogger"}}, "extra")) == []


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden"])
def test_the_name_of_a_logger_is_a_plain_one_because_it_is_a_folder_too(name):
    (complaint,) = complaints_about_loggers({name: {"_target_": "lightning.pytorch.loggers.TensorBoardLogger"}}, "extra")
    assert complaint.startswith(f"extra has an entry {name!r}; expected a plain name")


@pytest.mark.parametrize("name", ["records", "checkpoints", "csv", "wandb", "tokenizer"])
def test_a_logger_is_not_named_like_a_folder_that_every_run_has(name):
    (complaint,) = complaints_about_loggers({name: {"_target_": "lightning.pytorch.loggers.CSVLogger"}}, "extra")
    assert complaint == f"extra.{name} would write into the run's own folder {name}; choose another name, such as extra.my_{name}."


def test_wandb_is_no_extra_logger_because_its_axes_are_defined_once():
    (complaint,) = complaints_about_loggers({"more": {"_target_": "lightning.pytorch.loggers.WandbLogger"}}, "extra")
    assert complaint.endswith("set logger.wandb instead.")


def test_a_hostile_target_is_found_however_deep_it_lies():
    hidden = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": [{"deep": {"_target_": "os.system", "command": "true"}}]}
    (complaint,) = complaints_about_targets(hidden, "extra.stop")
    assert complaint.startswith("extra.stop.monitor[0].deep._target_ is 'os.system'")


@pytest.mark.parametrize("instruction", ["_partial_", "_args_", "_convert_", "_recursive_"])
def test_other_instructions_of_hydra_are_refused(instruction):
    entry = {"_target_": "lightning.pytorch.callbacks.Timer", instruction: True}
    (complaint,) = complaints_about_callbacks({"timer": entry}, "extra")
    assert instruction in complaint


def test_a_callback_that_changes_how_many_batches_make_a_step_is_refused() -> None:
    entry = {"_target_": "lightning.pytorch.callbacks.GradientAccumulationScheduler", "scheduling": {0: 4}}
    [complaint] = complaints_about_callbacks({"more": entry}, "callbacks.extra")
    assert "callbacks.extra.more" in complaint
    assert "trainer.accumulate_batches" in complaint
