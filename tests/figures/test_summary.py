from io import StringIO

from rich.console import Console

from confreg.figures.summary import named_neurons_table


def printed(table) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(table)
    return console.file.getvalue()


def test_named_neurons_are_listed_with_what_makes_them_so(make_run):
    text = printed(named_neurons_table(make_run(n_neurons=64)))
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip().startswith("1.")}
    assert set(rows) == {f"1.{neuron}" for neuron in range(9)}
    assert rows["1.0"][1] == "entropy"
    assert rows["1.0"][-1] == "256"
    assert rows["1.6"][1] == "token-frequency"
    assert rows["1.6"][-1] == "64"


def test_the_table_fits_a_terminal_of_80_columns(make_run):
    assert "…" not in printed(named_neurons_table(make_run(n_neurons=64)))


def test_without_named_neurons_words_say_why_in_place_of_an_empty_table(make_run):
    text = " ".join(printed(named_neurons_table(make_run(steps=(0, 1500), n_neurons=64, n_documents=8))).split())
    assert "Nothing is named" in text
    assert text.startswith("After 1,500 optimizer steps")
