"""Series of published weights: the revisions of a name on the hub, or the models of a folder; one of them on the disk at a time."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, scan_cache_dir, try_to_load_from_cache
from huggingface_hub.errors import CacheNotFound
from transformers import PreTrainedModel

from confreg.clock import clock_steps
from confreg.languages.model_sources import ModelSource, ModelSourceError, is_folder_of_models
from confreg.models.families import family_of
from confreg.models.pretrained import open_source
from confreg.settings import PretrainedSettings

STEP = re.compile(r"step[-_=]?(\d+)", re.IGNORECASE)
LAST_NUMBER = re.compile(r"(\d+)$")
PATTERN = re.compile(r"[*?\[]")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
N_SHOWN = 5


@dataclass(frozen=True)
class PublishedModel:
    """One model of a series.

    Attributes:
        place: where its weights are.
        name: the revision, or the folder's name; of a model alone the source.
        step: optimizer steps, where the name tells.
        number: what its records are filed under: the step, or the place in the series where steps are not known.
    """

    place: ModelSource
    name: str
    step: int | None
    number: int

    @property
    def is_remote(self) -> bool:
        """Whether it may have to be fetched."""
        return self.place.kind == "hub"

    @contextmanager
    def opened(self, pickled: bool = False, keeps_download: bool = True) -> Iterator[PreTrainedModel]:
        """The model in evaluation mode and fp32; what had to be fetched for it is deleted afterwards, where it is not to be kept.

        Raises:
            ModelSourceError: where the weights cannot be had.
            ValueError: for an architecture that cannot be measured.
        """
        was_there = not self.is_remote or self._is_cached()
        try:
            model = open_source(self.place, PretrainedSettings(self.place.source, pickled=pickled))
            family_of(model)
            yield model
        finally:
            if not (was_there or keeps_download):
                self._delete_download()

    def _is_cached(self) -> bool:
        """Whether its weights are: the tokenizer has brought the configuration already."""
        revision = self.place.revision or "main"
        return any(isinstance(try_to_load_from_cache(self.place.source, name, revision=revision), str) for name in WEIGHTS)

    def _delete_download(self) -> None:
        """The revision's files; those that other revisions share stay."""
        with suppress(CacheNotFound, OSError):
            cache, wanted = scan_cache_dir(), self.place.revision or "main"
            commits = [
                revision.commit_hash
                for repository in cache.repos
                if repository.repo_id == self.place.source
                for revision in repository.revisions
                if wanted in revision.refs or revision.commit_hash == wanted
            ]
            cache.delete_revisions(*commits).execute()


def published_models(source: str, revisions: Sequence[str] = (), per_doubling: int | None = None) -> list[PublishedModel]:
    """What a source and a choice of revisions name, in the order of their steps.

    Args:
        source: a NAME on the hub, a FOLDER of one or of several models, or a FILE.gguf.
        revisions: names and patterns; none: main, or every model of a folder.
        per_doubling: keep so many per doubling of the step, with the first and the last; None: all.

    Raises:
        ModelSourceError: where a revision does not exist, or two have the same step.
    """
    folder = Path(source).expanduser()
    if is_folder_of_models(folder):
        names = sorted(each.parent.name for each in folder.glob("*/config.json"))
        places = {name: ModelSource(str(folder / name), "folder") for name in _chosen(names, revisions or ["*"], source)}
    else:
        single = ModelSource.of(source)
        if single.kind != "hub" and revisions:
            raise ModelSourceError(f"revisions is {list(revisions)} and source is {source}, a {single.kind}: one model, without revisions.")
        names = _revisions_of(source, revisions) if revisions else [source]
        places = {name: ModelSource.of(source, name if revisions else None) for name in names}
    found = _in_order(places, source)
    return found if per_doubling is None else _thinned(found, per_doubling, source)


def step_in(name: str) -> int | None:
    """The optimizer step that a revision's or a folder's name tells: the number after "step", else the one at its end."""
    match = STEP.search(name) or LAST_NUMBER.search(name)
    return int(match[1]) if match else None


def _in_order(places: dict[str, ModelSource], source: str) -> list[PublishedModel]:
    steps = {name: step_in(name) if name != source else None for name in places}
    if any(step is None for step in steps.values()):
        return [PublishedModel(place, name, None, number) for number, (name, place) in enumerate(places.items())]
    of_step: dict[int, str] = {}
    for name, step in steps.items():
        assert step is not None
        if step in of_step:
            raise ModelSourceError(f"{source}: {of_step[step]} and {name} are both step {step}; expected one model for each step.")
        of_step[step] = name
    return [PublishedModel(places[name], name, step, step) for step, name in sorted(of_step.items())]


def _thinned(found: list[PublishedModel], per_doubling: int, source: str) -> list[PublishedModel]:
    """For each step of a clock the nearest one that is there."""
    if any(each.step is None for each in found):
        raise ModelSourceError(f"per_doubling is {per_doubling}, and not every revision of {source} is a step; leave it out.")
    wanted = clock_steps(max(each.number for each in found), per_doubling)
    nearest = {min(found, key=lambda each: (abs(each.number - step), each.number)).number for step in (*wanted, found[0].number)}
    return [each for each in found if each.number in nearest]


def _revisions_of(source: str, revisions: Sequence[str]) -> list[str]:
    """The revisions that exist are asked for only where there is a pattern."""
    if not any(PATTERN.search(each) for each in revisions):
        return list(dict.fromkeys(revisions))
    with ModelSource(source, "hub").explained("list of revisions"):
        refs = HfApi().list_repo_refs(source)
    return _chosen([each.name for each in (*refs.branches, *refs.tags)], revisions, source)


def _chosen(names: Sequence[str], patterns: Sequence[str], source: str) -> list[str]:
    """Names that match, in the order of the patterns."""
    chosen: dict[str, None] = {}
    for pattern in patterns:
        matching = fnmatch.filter(names, pattern)
        if not matching:
            there = ", ".join(sorted(names)[:N_SHOWN]) + (f" and {len(names) - N_SHOWN} more" if len(names) > N_SHOWN else "")
            raise ModelSourceError(f"revisions has {pattern!r}, which matches nothing of {source}; it has {there or 'none'}.")
        chosen |= dict.fromkeys(matching)
    return list(chosen)
