"""The page on families lists what the table has, and what it says of a family is so."""

from __future__ import annotations

import re
from pathlib import Path

from transformers import CONFIG_MAPPING, AutoConfig

from confreg.models.families import BUILDABLE, FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
TEXT = PAGE.read_text(encoding="utf-8")
LINES = [line for line in TEXT.splitlines() if line.startswith("| `")]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES]
BY_NAME = {name: row for row in ROWS for name in re.findall(r"`(\w+)`", row[0])}
CONFIGS = {name: AutoConfig.for_model(name) for name in FAMILIES}


def test_the_page_lists_every_family_once_and_says_which_are_trained_from_scratch() -> None:
    assert sorted(BY_NAME) == sorted(FAMILIES)
    assert sum(len(re.findall(r"`\w+`", row[0])) for row in ROWS) == len(FAMILIES)
    assert {name for name, row in BY_NAME.items() if row[1] == "yes"} == set(BUILDABLE)


def test_what_the_page_says_of_gates_and_of_configurations_that_are_refused_is_in_the_table() -> None:
    fused = {name for name, row in BY_NAME.items() if row[2] == "yes, fused"}
    assert {name for name, row in BY_NAME.items() if row[2] == "yes"} == {
        name for name, family in FAMILIES.items() if family.gate is not None
    }
    assert fused == {"glm4", "phi3"}
    lacking = {"opt": ("do_layer_norm_before", False), "bloom": ("apply_residual_connection_post_layernorm", True)}
    for name, (key, value) in lacking.items():
        config = AutoConfig.for_model(name)
        assert FAMILIES[name].lacks(config) is None
        setattr(config, key, value)
        assert f"`{key}={value}`" in TEXT
        assert FAMILIES[name].lacks(config) is not None


def test_architectures_that_the_page_says_are_measured_or_refused_without_a_row_have_none() -> None:
    named = re.findall(r"`(\w+)`", TEXT.split("With the sizes and random weights")[1].split("Every row")[0])
    assert len(named) > 10
    assert {*named} <= {*CONFIG_MAPPING} - {*FAMILIES}


def test_what_the_page_says_is_handled_is_in_the_row_of_the_family() -> None:
    for name, family in FAMILIES.items():
        config, handled = CONFIGS[name], BY_NAME[name][-1]
        for key in ("logit_scale", "logits_scaling", "residual_multiplier", "final_logit_softcapping"):
            if f"`{key}`" in handled:
                setattr(config, key, 3.0)
        assert ("norm behind the MLP" in handled) == (family.post_mlp_norm is not None), name
        assert ("soft-capped" in handled) == (family.softcap(config) is not None), name
        assert ("logits times" in handled or "logits divided" in handled) == (family.logit_multiplier(config) != 1), name
        assert ("MLP's output times" in handled) == (family.residual_multiplier(config) != 1), name
