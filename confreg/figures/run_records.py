"""What a page needs of a run folder, read into plain pandas frames."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import yaml

from confreg.records.measured_folder import MEASURED
from confreg.records.store import RecordError, RecordStore

MEASURED_AGAIN = "measured_again"  # the fact that tells where saved steps came from
CONTROL = ("control_draws", "control_seed")  # null: as the run, which draws more of them at its last step

# Only these are read: a run of many neurons and steps stays small in memory and on the page.
NEURON_FLOATS = (
    "w_out_norm",
    "logit_var",
    "null_space_share",
    "null_space_share_chance",
    "frequency_cosine",
    "entropy_effect",
    "entropy_effect_stderr",
    "entropy_norm_mediated_share",
    "loss_effect",
    "loss_effect_stderr",
    "kl_from_frequency_effect",
    "kl_from_frequency_effect_stderr",
    "frequency_mediated_share",
)
NEURON_FLAGS = ("is_entropy_neuron", "is_frequency_neuron")
MODEL_FLOATS = (
    "tokens_seen",
    "loss_nats",
    "entropy_nats",
    "calibration_error",
    "bayes_loss_nats",
    "excess_loss_nats",
    "excess_entropy_nats",
    "bayes_kl_nats",
    "n_entropy_neurons",
    "n_frequency_neurons",
    "n_entropy_neurons_control",
    "n_frequency_neurons_control",
    "null_dimensions",
    "n_positions",
    "n_documents",
)


class ReportError(ValueError):
    """A run that cannot be shown; the message names the folder or file and the next move."""


@dataclass(frozen=True)
class RunRecords:
    """A run as frames, in the order of its steps, with its configuration and facts.

    Attributes:
        neurons: one row per step and measured neuron; shares dimensionless, effects in nats.
        model: one row per step.
        spectrum: one row per step and singular value.
        config: config.yaml as a plain mapping, empty where there is none.
        facts: run.json, empty where there is none.
        groups: one row for each group of neurons at the last step at which groups were measured; empty where none were.
        knows_steps: whether the rows tell optimizer steps; else ``step`` is the place of a model among published ones.
    """

    run: Path
    neurons: pd.DataFrame
    model: pd.DataFrame
    spectrum: pd.DataFrame
    config: dict[str, Any]
    facts: dict[str, Any]
    groups: pd.DataFrame = field(default_factory=pd.DataFrame)
    knows_steps: bool = True

    @property
    def steps(self) -> list[int]:
        """Clock steps at which neurons were measured, first to last."""
        return sorted(int(step) for step in self.neurons["step"].unique())

    @property
    def name(self) -> str:
        """The run's own name, else its last two folders."""
        named = setting_of(self.config, "run.name")
        return str(named) if named else "/".join(self.run.resolve().parts[-2:])

    def model_at_last(self) -> dict[str, float]:
        """The model's row at the last measured step; empty where that step has none."""
        rows = self.model[self.model["step"] == self.steps[-1]]
        return {} if rows.empty else {str(name): value for name, value in rows.iloc[-1].items()}


def setting_of(config: dict[str, Any], key: str, default: Any = None) -> Any:
    """Value of a dotted key in a nested mapping; ``default`` where a part of the path is missing or the value is null."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return default if value is None else value


def number_setting_of(config: dict[str, Any], key: str) -> float | None:
    """Value of a dotted key where it is a finite number; a file edited by hand may hold anything, which then counts as missing."""
    value = setting_of(config, key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def read_run(run: Path) -> RunRecords:
    """Read the records of a run folder.

    Raises:
        ReportError: no such folder, no measured neurons in it, or a file that cannot be read.
    """
    if not run.is_dir():
        raise ReportError(f"{run} is not a folder; expected a run folder, e.g. runs/default/seed=0. Train one with confreg-train.")
    neurons = _read_table(run, "neurons", ("layer", "neuron"), NEURON_FLOATS)
    if neurons.empty:
        raise ReportError(
            f"{run / 'records' / 'neurons'} holds no measured step (step=*.parquet, listed in records/manifest.json); expected one. "
            f"Is {run} the folder of a run? A run measures unless callbacks.measure=false."
        )
    return RunRecords(
        run=run,
        neurons=neurons.sort_values(["step", "layer", "neuron"], ignore_index=True),
        model=_read_table(run, "model", (), MODEL_FLOATS).sort_values("step", ignore_index=True),
        spectrum=_read_table(run, "spectrum", ("index",), ("singular_value",)).sort_values(["step", "index"], ignore_index=True),
        groups=_read_groups(run),
        knows_steps=_knows_steps(run),
        **_read_origin(run),
    )


def _knows_steps(run: Path) -> bool:
    """Published models may not tell how long they were trained."""
    store = RecordStore(run / "records")
    steps = store.steps("neurons")
    return not store.read("neurons", steps[-1])["step"].null_count


def _read_groups(run: Path) -> pd.DataFrame:
    """The whole table at its last step."""
    store = RecordStore(run / "records")
    try:
        steps = store.steps("groups")
        return store.read("groups", steps[-1]).to_pandas() if steps else pd.DataFrame()
    except (RecordError, OSError, pa.ArrowException) as error:
        raise ReportError(f"the records of {run} cannot be read: {error}") from error


def _read_origin(run: Path) -> dict[str, dict[str, Any]]:
    """Configuration and facts of a run; of saved steps that were measured again, those of their run, with the request that was made."""
    measured = _read_facts(run / MEASURED)
    if not measured:
        return {"config": _read_config(run / "config.yaml"), "facts": _read_facts(run / "run.json")}
    source = _mapping(measured.pop("source", None))
    config, request = _mapping(source.pop("config", None)), _mapping(measured.pop("request", None))
    own = _mapping(setting_of(config, "measure.request"))
    asked = {key: own.get(key) if value is None and key in CONTROL else value for key, value in request.items()}
    config["measure"] = {**_mapping(config.get("measure")), "request": asked}
    name = f"{setting_of(config, 'run.name', 'run')}/measured/{run.resolve().name}"
    config["run"] = {**_mapping(config.get("run")), "name": name if "source" not in config else str(config["source"])}
    return {"config": config, "facts": {**_mapping(source.pop("facts", None)), **measured, MEASURED_AGAIN: source}}


def _mapping(value: Any) -> dict[str, Any]:
    """A file edited by hand may hold anything, which then counts as empty."""
    return dict(value) if isinstance(value, dict) else {}


def _read_table(run: Path, table: str, keys: tuple[str, ...], floats: tuple[str, ...]) -> pd.DataFrame:
    wanted = ("step", *keys, *floats, *(NEURON_FLAGS if table == "neurons" else ()))
    store = RecordStore(run / "records")
    try:
        frames = [_columns(store.read(table, step), wanted).fillna({"step": step}) for step in store.steps(table)]
    except (RecordError, OSError, pa.ArrowException) as error:
        raise ReportError(f"the records of {run} cannot be read: {error}") from error
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(wanted))
    for name in floats:
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype("float64")
    for name in set(NEURON_FLAGS) & set(wanted):
        frame[name] = frame[name].eq(True)
    return frame.astype(dict.fromkeys(("step", *keys), "int64"))


def _columns(rows: pa.Table, wanted: tuple[str, ...]) -> pd.DataFrame:
    """The wanted columns; one that an older or partial table lacks is null."""
    return rows.select([name for name in wanted if name in rows.column_names]).to_pandas().reindex(columns=list(wanted))


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ReportError(f"{path} cannot be read ({error}); expected the mapping that the run wrote. Restore or remove it.") from error
    return {str(key): value for key, value in config.items()} if isinstance(config, dict) else {}


def _read_facts(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} cannot be read ({error}); expected the JSON that the run wrote. Restore or remove it.") from error
    return facts if isinstance(facts, dict) else {}
