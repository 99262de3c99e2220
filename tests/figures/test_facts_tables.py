from confreg.figures.facts_tables import LONGEST_VALUE, facts_tables


def test_groups_become_tables_with_dotted_keys_and_loose_values_come_first():
    html = facts_tables({"model": {"d_model": 64, "norm": {"epsilon": 1e-5}}, "seed": 3})
    assert html.index("seed") < html.index("<caption>model</caption>")
    assert "<tr><th>norm.epsilon</th><td>1e-05</td></tr>" in html
    assert html.count("<table") == 2


def test_values_are_said_plainly():
    html = facts_tables({"a": None, "b": True, "c": [1, 2], "d": "", "e": {}})
    assert "<th>a</th><td>–</td>" in html
    assert "<th>b</th><td>yes</td>" in html
    assert "<th>c</th><td>[1, 2]</td>" in html
    assert "<th>e</th><td>–</td>" in html


def test_markup_in_keys_and_values_is_escaped():
    html = facts_tables({"<b>": {"<i>": "<script>"}})
    assert "<script>" not in html
    assert "&lt;b&gt;" in html


def test_a_long_value_is_cut():
    assert "x" * (LONGEST_VALUE - 1) + "…</td>" in facts_tables({"a": "x" * 1000})


def test_no_facts_make_no_tables():
    assert facts_tables({}) == ""
