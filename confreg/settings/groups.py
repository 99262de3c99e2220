"""Groups of neurons that are replaced together: what a name and its neurons must be."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from numbers import Integral
from typing import Any

GROUP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")  # it becomes part of dotted keys and of loggers' paths


def complaints_about_groups(groups: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with groups whatever the layer; lines begin with ``groups.NAME``.

    Args:
        groups: name -> neurons of the last MLP.
    """
    if not isinstance(groups, Mapping):
        yield f"groups is {groups!r}; expected names, each with its neurons, such as {{'pair': [3, 17]}}."
        return
    for name, neurons in groups.items():
        if not isinstance(name, str) or not GROUP_NAME.fullmatch(name):
            yield f"groups has one named {name!r}; expected a letter, then letters, digits, _ or -."
        elif not _are_neurons(neurons) or len(neurons) == 0:
            yield f"groups.{name} is {neurons}; expected one neuron at least, as a list of whole numbers from 0, such as [3, 17]."
        elif len(set(neurons)) < len(neurons):
            twice = next(each for each in neurons if list(neurons).count(each) > 1)
            yield f"groups.{name} has {twice} more than once; expected each neuron once."


def complaints_about_neurons(groups: Mapping[str, Any], n_neurons: int) -> Iterator[str]:
    """Which groups have neurons that a layer of so many has not; lines begin with ``groups.NAME``.

    Args:
        groups: name -> neurons of the last MLP.
        n_neurons: of the last MLP.
    """
    for name, neurons in groups.items():
        beyond = [each for each in neurons if each >= n_neurons] if _are_neurons(neurons) else []
        if beyond:
            yield f"groups.{name} has {', '.join(map(str, beyond))}; expected neurons of the last MLP, which are 0 to {n_neurons - 1}."


def _are_neurons(values: Any) -> bool:
    """Whether these are whole numbers from 0; those of numpy count."""
    if not isinstance(values, Collection) or isinstance(values, str):
        return False
    return all(isinstance(each, Integral) and not isinstance(each, bool) and int(each) >= 0 for each in values)
