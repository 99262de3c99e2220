"""A mixture's settings: closed, and its parts in one order."""

from __future__ import annotations

import pytest

from confreg.settings import (
    MixtureSettings,
    PartSettings,
    SettingError,
    Settings,
    SyntheticSettings,
    SyntheticSource,
    TextSettings,
    TextSource,
    check_ranges,
    digest,
    is_all_synthetic,
    setting_types,
    settings_from_mapping,
    settings_to_mapping,
    texts_of,
)

TEXT, KNOWN = PartSettings(3.0, text=TextSource(source="a.txt")), PartSettings(synthetic=SyntheticSource(rank=3))


def mixture(**parts: PartSettings) -> Settings:
    return Settings(data=MixtureSettings(parts=parts))


def test_a_mixture_survives_the_way_to_a_mapping_and_back() -> None:
    settings = mixture(speeches=TEXT, known=KNOWN)
    assert settings_from_mapping(settings_to_mapping(settings)) == settings


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, r"data\.parts is empty"),
        ({"a": PartSettings()}, r"data\.parts\.a\.synthetic and text: neither came"),
        ({"a": PartSettings(synthetic=SyntheticSource(), text=TextSource())}, r"data\.parts\.a\.synthetic and text: both came"),
        ({"a": PartSettings(weight=0, text=TextSource())}, r"data\.parts\.a\.weight is 0; expected a value above 0"),
        ({"a": PartSettings(weight=float("inf"), text=TextSource())}, r"data\.parts\.a\.weight is inf; expected a finite number"),
        ({"a": PartSettings(synthetic=SyntheticSource(rank=0))}, r"data\.parts\.a\.synthetic\.rank is 0"),
        ({"a": PartSettings(synthetic=SyntheticSource(backoff_weight_min=9.0))}, r"data\.parts\.a\.synthetic\.backoff_weight_min is 9\.0"),
        ({"a.b": KNOWN}, r"data\.parts has one named 'a\.b'; expected a letter"),
        ({"": KNOWN}, "one named ''"),
        (
            {"a": TEXT, "b": PartSettings(text=TextSource(vocabulary_size=300))},
            r"data\.parts: text\.vocabulary_size is 2048 in a, 300 in b; expected the same in all",
        ),
    ],
)
def test_parts_that_make_no_mixture_are_refused_by_key(parts: dict[str, PartSettings], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        check_ranges(mixture(**parts))


@pytest.mark.parametrize(
    "part",
    [{"wieght": 1, "text": {}}, {"text": {"rank": 3}}, {"text": {"batch_size": 3}}, {"synthetic": {"block_length": 8}}, 3, None],
)
def test_a_mapping_with_keys_that_no_part_has_is_refused(part: object) -> None:
    mapping = settings_to_mapping(mixture(speeches=TEXT))
    mapping["data"]["parts"]["more"] = part
    with pytest.raises(SettingError, match=r"data\.parts\.more"):
        settings_from_mapping(mapping)


def test_the_order_in_which_parts_are_written_makes_no_other_run() -> None:
    one, other = mixture(a=TEXT, b=KNOWN), mixture(b=KNOWN, a=TEXT)
    assert one.data.ordered() == other.data.ordered() == [("a", TEXT), ("b", KNOWN)]
    assert digest(settings_to_mapping(one)) == digest(settings_to_mapping(other))


def test_the_cache_of_a_part_makes_no_other_run_and_its_weight_does() -> None:
    elsewhere = PartSettings(3.0, text=TextSource(source="a.txt", cache="/elsewhere"))
    heavier = PartSettings(4.0, text=TextSource(source="a.txt"))
    digests = [digest(settings_to_mapping(mixture(a=part, b=KNOWN))) for part in (TEXT, elsewhere, heavier)]
    assert digests[0] == digests[1] != digests[2]


def test_a_part_has_the_batch_and_block_of_the_whole() -> None:
    data = MixtureSettings(batch_size=3, block_length=16, workers=1, parts={"a": TEXT, "b": KNOWN})
    assert data.data_of(TEXT) == TextSettings(batch_size=3, block_length=16, workers=1, source="a.txt")
    assert data.data_of(KNOWN) == SyntheticSettings(batch_size=3, block_length=16, workers=1, rank=3)


def test_texts_are_found_by_their_dotted_keys() -> None:
    assert texts_of(mixture(b=KNOWN, a=TEXT).data) == {"data.parts.a.text": TEXT.text}
    assert list(texts_of(TextSettings(source="x"))) == ["data"]
    assert texts_of(SyntheticSettings()) == {}
    assert [is_all_synthetic(each) for each in (SyntheticSettings(), TextSettings())] == [True, False]
    assert [is_all_synthetic(mixture(a=KNOWN, b=each).data) for each in (KNOWN, TEXT)] == [True, False]


def test_the_keys_of_parts_are_listed_once_for_all_names() -> None:
    types = setting_types()
    assert types["data.parts.NAME.weight"] is float
    assert types["data.parts.NAME.text.source"] is str
    assert "data.parts.NAME.text.batch_size" not in types
    assert [key for key in types if key.startswith("data.parts.") and not key.startswith("data.parts.NAME.")] == []
