"""What a sweep writes about its jobs, secrets redacted: ``sweep.json``, and Hydra's ``multirun.yaml``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Transformer, ValueType
from hydra.errors import HydraException

from confreg.records.durable import write_text_durably
from confreg.records.redaction import REDACTED, redacted
from confreg.settings import Settings, digest, settings_to_mapping

SWEEP, MULTIRUN = "sweep.json", "multirun.yaml"
CHOICES = (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP)


def write_sweep(folder: Path, jobs: list[tuple[list[str], Settings]]) -> None:
    """``sweep.json``: the folder of each job beside its overrides; jobs of an earlier call under the same name are kept."""
    path = folder / SWEEP
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"jobs": {}}
    known["jobs"] |= {digest(settings_to_mapping(settings)): redacted_overrides(job) for job, settings in jobs}
    folder.mkdir(parents=True, exist_ok=True)
    write_text_durably(path, json.dumps(known, indent=2) + "\n")


def redact_multirun(folder: Path) -> None:
    """Take the secrets out of the file that Hydra writes when a sweep begins: it holds every override as it was typed, in three places."""
    path = folder / MULTIRUN
    if not path.exists():
        return
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    safe = redacted(written)
    typed = written["hydra"]["overrides"]
    safe["hydra"]["overrides"] = {kind: redacted_overrides(each) for kind, each in typed.items()}
    if safe["hydra"]["overrides"] != typed:
        safe["hydra"]["job"]["override_dirname"] = REDACTED  # all of them again, in one line
    if safe != written:
        write_text_durably(path, yaml.safe_dump(safe, sort_keys=False, allow_unicode=True))


def redacted_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides as they were typed, but for secrets: those under telling keys, also inside of mappings, and users in addresses."""
    return [_redacted_override(each) for each in overrides]


def _redacted_override(text: str) -> str:
    """Hydra's own grammar reads the value, for quotes and backslashes hide what stands in it."""
    key, equals, value = text.partition("=")
    name = key.rpartition(".")[2]
    unread = f"{key}{equals}{redacted(value, name)}"
    if unread == f"{key}={REDACTED}":
        return unread
    try:
        parsed = OverridesParser.create().parse_override(text)
    except HydraException:  # of a sweeper with a grammar of its own, or one that was redacted before
        return unread
    if parsed.value_type in CHOICES:
        choices = [f"{key}={each}" for each in parsed.sweep_iterator(Transformer.encode)]
        safe_choices = redacted_overrides(choices)
        return text if safe_choices == choices else f"{key}={','.join(each.partition('=')[2] for each in safe_choices)}"
    plain = value if parsed.is_sweep_override() else parsed.value()
    safe = redacted(plain, name)
    return text if safe == plain else f"{key}={safe if isinstance(safe, str) else json.dumps(safe)}"
