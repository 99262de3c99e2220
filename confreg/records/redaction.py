"""Secrets out of everything that a run writes down: values of telling keys, and the user part of addresses."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

REDACTED = "<redacted>"
ANYWHERE = {"password", "passwd", "passphrase", "secret", "secrets", "apikey", "credential", "credentials"}  # words of a key
AT_THE_END = {"token", "auth"}  # hf_token is a secret, token_counts is not
A_RATE = ["per", "token"]  # at the end: characters_per_token
PAIRS = {("api", "key"), ("access", "key"), ("private", "key")}
ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^/?#\s]*)@")
WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")


def redacted(value: Any, key: str = "") -> Any:
    """A copy of a nested value without secrets.

    Args:
        value: mappings, lists and plain values.
        key: the key under which the value stands.

    Returns:
        The same shape; what stands under a telling key is ``<redacted>`` unless it is empty or a list of whole numbers, and addresses
        lose their user part.
    """
    if isinstance(value, Mapping):
        return {name: redacted(each, str(name)) for name, each in value.items()}
    if value not in (None, "", [], ()) and names_a_secret(key) and not _are_numbers(value):
        return REDACTED
    if isinstance(value, list | tuple):
        return list(value) if _are_numbers(value) else [redacted(each, key) for each in value]
    return ADDRESS.sub(rf"\g<scheme>{REDACTED}@", value) if isinstance(value, str) else value


def _are_numbers(value: Any) -> bool:
    """Whether it is a list of whole numbers, such as the neurons of a group that is named ``rare_token``."""
    return isinstance(value, list | tuple) and all(type(each) is int for each in value)


def names_a_secret(key: str) -> bool:
    """Whether a key's words say that its value is a secret: ``hf_token``, ``apiKey``, ``db-password``."""
    words = [word.lower() for word in WORDS.findall(key)]
    if not words or words[-2:] == A_RATE:
        return False
    return bool(ANYWHERE & set(words)) or words[-1] in AT_THE_END or any(pair in PAIRS for pair in itertools.pairwise(words))
