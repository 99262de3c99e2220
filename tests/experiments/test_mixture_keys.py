"""Parts of a mixture on the command line and in presets: added, changed, left out, and misspelt."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose
from omegaconf import DictConfig

from confreg.experiments.command_line import run_command
from confreg.experiments.composition import compose_settings, composing, with_quoted_paths
from confreg.experiments.surroundings import check_surroundings
from confreg.settings import PartSettings, SettingError, SyntheticSource, TextSource, settings_from_mapping, settings_to_mapping

SPEECHES, KNOWN = PartSettings(3.0, text=TextSource()), PartSettings(1.0, synthetic=SyntheticSource())


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    """What ``recompose`` starts from in this module."""
    with composing([], None):
        return compose("train", ["data=mixture"])


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ([], {"speeches": SPEECHES, "known": KNOWN}),
        (["data.parts.speeches.weight=1"], {"speeches": PartSettings(1.0, text=TextSource()), "known": KNOWN}),
        (["~data.parts.known"], {"speeches": SPEECHES}),
        (
            ["+data.parts.more={weight: 2, text: {source: a.txt}}", "~data.parts.known"],
            {"speeches": SPEECHES, "more": PartSettings(2.0, text=TextSource(source="a.txt"))},
        ),
        (
            ["+data.parts.more.synthetic.rank=3", "+data.parts.more.weight=2", "~data.parts.known"],
            {"speeches": SPEECHES, "more": PartSettings(2.0, synthetic=SyntheticSource(rank=3))},
        ),
    ],
)
def test_parts_are_changed_added_and_left_out_by_overrides(overrides: list[str], parts: dict[str, PartSettings]) -> None:
    settings = compose_settings(["data=mixture", *overrides])
    assert settings.data.parts == parts
    assert settings_from_mapping(settings_to_mapping(settings)) == settings


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["data.parts.speeches.wieght=1"],
            "data.parts.speeches.wieght (on the command line) is not a setting. Did you mean data.parts.speeches.weight?",
        ),
        (["data.parts.speeches.text.sorce=a"], "Did you mean data.parts.speeches.text.source?"),
        (["data.parts.speeches.text.rank=1"], "Did you mean data.parts.speeches.synthetic.rank?"),
        (["data.parts.speeches.text.batch_size=1"], "Did you mean data.batch_size?"),
        (["+data.parts.more={weight: 1, tex: {source: a.txt}}"], "Did you mean data.parts.more.text?"),
        (["+data.parts.more.text.sorce=a"], "data.parts.more.text.sorce"),
        (["data.part.speeches.weight=3"], "Did you mean data.parts.NAME.weight?"),
        (
            ["data.parts.know.weight=2"],
            "data.parts.know (on the command line) is not a part of this mixture; to add one: '+data.parts.know=",
        ),
        (["data.parts={a: {text: {source: a}}}"], "to add one: '+data.parts.a="),
        (["data.parts.known=2"], "data.parts.known is '2' (on the command line); expected a mapping of settings"),
        (["data.parts.known.weight=0"], "data.parts.known.weight is 0.0; expected a value above 0"),
        (["data.parts.known.weight=much"], "data.parts.known.weight is 'much' (on the command line); expected a number."),
        (["data.parts.known.synthetic.rank=a"], "data.parts.known.synthetic.rank is 'a' (on the command line); expected a whole number."),
        (
            ["data.parts.speeches.synthetic.rank=1"],
            "data.parts.speeches.synthetic.rank (on the command line) stands below one that is null",
        ),
        (["+data.parts.speeches.synthetic.rank=1"], "data.parts.speeches.synthetic and text: both came"),
        (["data.parts.speeches.text=null"], "neither came"),
        (["~data.parts.known", "~data.parts.speeches"], "data.parts is empty"),
        (["data.rank=2"], "data.rank (on the command line) is a setting of SyntheticSettings, and the chosen data is MixtureSettings."),
        (["+data.rank=2"], "data.rank (on the command line) is a setting of SyntheticSettings, and the chosen data is MixtureSettings."),
    ],
)
def test_what_is_no_part_is_refused_by_its_key_with_the_next_move(recompose, overrides: list[str], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        recompose(*with_quoted_paths(overrides))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4


@pytest.mark.parametrize("override", ["data.parts.speeches.weight=1", "+data.parts.speeches.weight=1"])
def test_a_part_without_a_mixture_is_refused(override: str) -> None:
    with pytest.raises(SettingError, match="is a setting of MixtureSettings, and the chosen data is SyntheticSettings"):
        compose_settings([override])


def test_a_mixture_of_ones_own_is_a_preset_closed_by_the_schema(tmp_path: Path) -> None:
    file = tmp_path / "presets" / "data" / "mine.yaml"
    file.parent.mkdir(parents=True)
    start = "defaults:\n  - /schema/data/mixture@_here_\n  - _self_\n\nparts:\n  mine:\n"
    file.write_text(f"{start}    text:\n      source: a.txt\n")
    assert compose_settings(["data=mine"], tmp_path / "presets").data.parts == {"mine": PartSettings(text=TextSource(source="a.txt"))}
    file.write_text(f"{start}    txt:\n      source: a.txt\n")
    with pytest.raises(SettingError) as caught:
        compose_settings(["data=mine"], tmp_path / "presets")
    assert f"data.parts.mine.txt (in the file {file}) is not a setting. Did you mean data.parts.mine.text?" in str(caught.value)


def test_an_added_part_is_written_as_hydra_can_read_it_and_other_arguments_stay() -> None:
    assert with_quoted_paths(["+data.parts.more.text.source=a.txt"]) == ["+data.parts={more: {text: {source: a.txt}}}"]
    plain = ["data.parts.more.weight=1", "+data.parts={a: {weight: 1}}", "~data.parts.a", "+data.partsmore=1"]
    assert with_quoted_paths(plain) == plain


def test_a_sweep_over_weights_has_a_job_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    arguments = ["-m", "run.name=x", "data=mixture", "data.parts.known.weight=1,2", "+data.parts.more={synthetic: {}}"]
    assert run_command("train", lambda settings: seen.append(settings.data.parts) or 0, arguments) == 0
    assert [(parts["known"].weight, parts["more"]) for parts in seen] == [(1.0, KNOWN), (2.0, KNOWN)]


def test_a_text_that_is_not_there_is_refused_with_the_key_of_its_part() -> None:
    settings = compose_settings(["data=mixture", "data.parts.speeches.text.source=nowhere"])
    with pytest.raises(ValueError, match=r"data\.parts\.speeches\.text\.source is 'nowhere'"):
        check_surroundings(settings)
