"""Series of published weights: which models a choice of revisions means, in which order, and under which step."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from confreg.languages.model_sources import ModelSourceError
from confreg.models import series
from confreg.models.series import published_models, step_in

PYTHIA = ["main", *(f"step{step}" for step in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 20000, 1000)))]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.json").write_text("{}")
        return tmp_path

    return make


@pytest.fixture
def pythia(monkeypatch: pytest.MonkeyPatch) -> str:
    refs = SimpleNamespace(branches=[SimpleNamespace(name=name) for name in PYTHIA], tags=[])
    monkeypatch.setattr(series.HfApi, "list_repo_refs", lambda self, name: refs)
    return "somebody/pythia"


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step143000", 143000),
        ("step0", 0),
        ("checkpoint-500", 500),
        ("stage1-step1000-tokens5B", 1000),
        ("main", None),
        ("step=00000512", 512),
        ("v2-final", None),
    ],
)
def test_a_name_tells_its_step(name: str, step: int | None) -> None:
    assert step_in(name) == step


def test_a_folder_of_models_is_a_series_in_the_order_of_its_steps(folder: Callable[..., Path]) -> None:
    found = published_models(str(folder("checkpoint-1000", "checkpoint-20", "checkpoint-300")))
    assert [(each.name, each.step, each.number) for each in found] == [
        ("checkpoint-20", 20, 20),
        ("checkpoint-300", 300, 300),
        ("checkpoint-1000", 1000, 1000),
    ]
    chosen = published_models(found[0].place.source.rpartition("/")[0], ["*-?00"])
    assert [each.name for each in chosen] == ["checkpoint-300"]


def test_models_without_steps_are_numbered_in_their_order_and_their_step_is_unknown(folder: Callable[..., Path]) -> None:
    found = published_models(str(folder("base", "chat", "step5")))
    assert [(each.name, each.step, each.number) for each in found] == [("base", None, 0), ("chat", None, 1), ("step5", None, 2)]


def test_two_models_of_one_step_are_refused_by_name(folder: Callable[..., Path]) -> None:
    with pytest.raises(ModelSourceError, match="a-step5 and b-step5 are both step 5"):
        published_models(str(folder("a-step5", "b-step5")))


def test_one_model_has_no_revisions(publish: Callable[..., Path]) -> None:
    source = str(publish())
    assert [(each.step, each.number) for each in published_models(source)] == [(None, 0)]
    with pytest.raises(ModelSourceError, match=r"revisions is \['step5'\] and source is .*: one model"):
        published_models(source, ["step5"])


def test_named_revisions_are_taken_without_asking_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series.HfApi, "list_repo_refs", lambda *_: pytest.fail("the hub was asked"))
    found = published_models("somebody/pythia", ["step64", "step0", "step64"])
    assert [(each.place.revision, each.step) for each in found] == [("step0", 0), ("step64", 64)]
    assert [each.step for each in published_models("somebody/pythia")] == [None]


def test_patterns_are_matched_against_the_revisions_there_are(pythia: str) -> None:
    assert [each.step for each in published_models(pythia, ["step?"])] == [0, 1, 2, 4, 8]
    assert len(published_models(pythia, ["step*"])) == len(PYTHIA) - 1
    with pytest.raises(ModelSourceError, match=r"revisions has 'stage\*', which matches nothing of somebody/pythia; it has main, step0,"):
        published_models(pythia, ["stage*"])


def test_of_many_steps_the_nearest_to_a_clock_are_kept_with_the_first_and_the_last(pythia: str) -> None:
    steps = [each.number for each in published_models(pythia, ["step*"], per_doubling=1)]
    assert steps == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 4000, 8000, 16000, 19000]
    with pytest.raises(ModelSourceError, match="per_doubling is 1, and not every revision"):
        published_models(pythia, ["*"], per_doubling=1)


def test_a_hub_that_cannot_be_reached_is_said_with_the_next_move(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(series.HfApi, "list_repo_refs", unreachable)
    with pytest.raises(ModelSourceError, match=r"no list of revisions in the cache .*no route to host.*\n.*copy the model's folder"):
        published_models("somebody/pythia", ["step*"])
