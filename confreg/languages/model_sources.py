"""Where published weights and their tokenizers lie: a name on the hub, a folder, a GGUF file, a run or one of its checkpoints."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

RUN_CONFIG, RUN_TOKENIZER, CHECKPOINTS = "config.yaml", "tokenizer", "checkpoints"
EXPECTED = "expected the NAME of a published model, a FOLDER written by save_pretrained, a FILE.gguf, a RUN, or a step=….ckpt of one"
N_SHOWN = 3
OWNER_AND_NAME = 2  # parts of a name on the hub, at most


class ModelSourceError(ValueError):
    """Weights or a tokenizer that cannot be had; the message names the source, what is wrong and the next move."""


@dataclass(frozen=True)
class ModelSource:
    """What a source names.

    Attributes:
        source: as it was given.
        kind: "run", "checkpoint" (of a run), "gguf", "folder", or "hub".
        revision: branch, tag or commit of a name on the hub; step of a run.
    """

    source: str
    kind: str
    revision: str | None = None

    @classmethod
    def of(cls, source: str, revision: str | None = None) -> ModelSource:
        """By what is there; a name that is no path is looked for on the hub.

        Raises:
            ModelSourceError: for a path that leads nowhere or to nothing that anybody reads, and a revision of what has none.
        """
        path = Path(source).expanduser()
        kind = _kind_of_path(path, source) if path.exists() else _kind_of_absent(source)
        if revision is not None and kind not in ("hub", "run"):
            raise ModelSourceError(f"revision is {revision!r} and source is {source!r}, a {kind}; only a NAME and a RUN have revisions.")
        return cls(source, kind, revision)

    @property
    def path(self) -> Path:
        """Of what lies on this machine."""
        return Path(self.source).expanduser()

    @property
    def run(self) -> Path:
        """The run of a run or checkpoint."""
        return self.path if self.kind == "run" else self.path.parent.parent

    def tokenizer(self) -> ModelSource:
        """Where the tokenizer lies: that of a run is a folder of its own."""
        if self.kind in ("run", "checkpoint"):
            folder = self.run / RUN_TOKENIZER
            if not folder.is_dir():
                raise ModelSourceError(f"{self.run} keeps no tokenizer (its language has none); give one by tokenizer=NAME or FOLDER.")
            return ModelSource(str(folder), "folder")
        return self

    def arguments(self) -> dict[str, Any]:
        """For ``from_pretrained`` of transformers: code that comes with a model is never run, and nobody is asked about it."""
        if self.kind == "gguf":
            _require("gguf", "gguf", self.source)
            _require("accelerate", "gguf", self.source)
            return {"pretrained_model_name_or_path": self.path.parent, "gguf_file": self.path.name, "trust_remote_code": False}
        name = self.path if self.kind == "folder" else self.source
        return {"pretrained_model_name_or_path": name, "revision": self.revision or "main", "trust_remote_code": False}

    @contextlib.contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Whatever transformers and its hub raise within ends as a ModelSourceError that says what was looked for and how to get it."""
        try:
            yield
        except ModelSourceError:
            raise
        except Exception as error:  # their kinds are many: OSError, ValueError, those of safetensors, of HTTP, of JSON
            raise ModelSourceError(self._explanation(what, error)) from error

    def _explanation(self, what: str, error: Exception) -> str:
        reason = " ".join(str(error).split())[:300]
        if self.kind != "hub":
            return f"{self.source}: its {what} cannot be read ({type(error).__name__}: {reason})."
        revision, option = (f" at revision {self.revision}", f" --revision {self.revision}") if self.revision else ("", "")
        cache = os.environ.get("HF_HOME", "~/.cache/huggingface")
        return (
            f"{self.source}: no {what}{revision} in the cache ({cache}), and none could be fetched ({type(error).__name__}: {reason}).\n"
            f"With a network: hf download {self.source}{option}; without one: copy the model's folder here and give its path."
        )


def is_run(source: str) -> bool:
    """Whether a source is the folder of a run."""
    return (Path(source).expanduser() / RUN_CONFIG).exists()


def is_folder_of_models(folder: Path) -> bool:
    """Whether a folder holds several models and is none itself."""
    return folder.is_dir() and not (folder / "config.json").exists() and any(folder.glob("*/config.json"))


def _kind_of_path(path: Path, source: str) -> str:
    if path.is_dir():
        if is_run(source):
            return "run"
        if any((path / each).exists() for each in ("config.json", "tokenizer.json", "tokenizer_config.json")):
            return "folder"
        raise ModelSourceError(f"{source} is a folder without config.json; {EXPECTED}.{_inside(path, source)}")
    if path.suffix == ".gguf":
        return "gguf"
    if path.suffix == ".ckpt" and path.parent.name == CHECKPOINTS and (path.parent.parent / RUN_CONFIG).exists():
        return "checkpoint"
    raise ModelSourceError(f"{source} is a file that is neither a GGUF file nor a checkpoint within a run's folder; {EXPECTED}.")


def _inside(folder: Path, source: str) -> str:
    """What the folder holds that could have been meant."""
    for name in ("config.json", RUN_CONFIG):
        found = [f"{source.rstrip('/')}/{each.parent.name}" for each in sorted(folder.glob(f"*/{name}"))]
        if found:
            more = f" and {len(found) - N_SHOWN} more" if len(found) > N_SHOWN else ""
            return f" It holds {', '.join(found[:N_SHOWN])}{more}: choose one."
    return ""


def _kind_of_absent(source: str) -> str:
    """A name on the hub is OWNER/NAME or NAME; anything that looks like a path was meant as one."""
    parts = source.split("/")
    is_name = 0 < len(parts) <= OWNER_AND_NAME and all(parts) and source[0] not in "./~" and "\\" not in source
    if not is_name or Path(source).suffix in (".gguf", ".ckpt") or source.startswith("runs/"):
        raise ModelSourceError(f"{source!r}: there is no such file or folder; {EXPECTED}.")
    return "hub"


def _require(package: str, extra: str, source: str) -> None:
    if find_spec(package) is None:
        raise ModelSourceError(f"{source} needs the package {package}, which is not installed: pip install 'confreg[{extra}]'.")
