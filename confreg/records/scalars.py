"""The scalars of one clock step, as loggers show them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from confreg.records.schema import IDENTITY, MODEL
from confreg.records.store import RecordStore

MAXIMA = ("null_space_share", "entropy_effect", "kl_from_frequency_effect", "loss_effect", "w_out_norm")
MEDIANS = ("entropy_effect", "kl_from_frequency_effect", "w_out_norm")  # what the rules compare with; dead neurons show in them
# Of the named neurons of a kind, the one with the largest effect, and what makes it one of its kind.
LEADERS = {
    "top_entropy": ("is_entropy_neuron", "entropy_effect", ("entropy_norm_mediated_share", "null_space_share", "logit_var", "w_out_norm")),
    "top_frequency": ("is_frequency_neuron", "kl_from_frequency_effect", ("frequency_mediated_share", "frequency_cosine")),
}
OF_GROUPS = (
    *("loss_effect", "entropy_effect", "kl_from_frequency_effect"),
    *("norm_mediated_share", "entropy_norm_mediated_share", "frequency_mediated_share"),
)


def clock_scalars(store: RecordStore, step: int) -> dict[str, float]:
    """What loggers get at a clock step; nulls are left out.

    Returns:
        ``model/<measure>`` of the model's row; over the measured neurons ``neurons/<measure>_max`` and ``neurons/<measure>_median``;
        ``neurons/top_entropy_<measure>`` of the entropy neuron with the largest effect on entropy, ``neurons/top_frequency_<measure>``
        of the token-frequency neuron with the largest effect on the divergence from the token frequencies; absent while none is named;
        ``groups/<name>_<measure>`` of every group that is replaced together. Units are those of the columns.
    """
    row = store.read("model", step).to_pylist()[0]
    scalars = {f"model/{name}": row[name] for name in MODEL.names if name not in IDENTITY}
    scalars["model/tokens_seen"] = row["tokens_seen"]
    scalars |= {f"neurons/{name}": value for name, value in _of_the_neurons(store.read("neurons", step))}
    for group in store.read("groups", step).to_pylist() if store.has("groups", step) else ():
        scalars |= {f"groups/{group['group']}_{name}": group[name] for name in OF_GROUPS}
    return {name: float(value) for name, value in scalars.items() if value is not None}


def _of_the_neurons(neurons: pa.Table) -> Iterator[tuple[str, float | None]]:
    for name in MAXIMA:
        yield f"{name}_max", pc.max(neurons[name]).as_py()
    for name in MEDIANS:
        yield f"{name}_median", pc.quantile(neurons[name], q=0.5)[0].as_py()
    for kind, (flag, effect, names) in LEADERS.items():
        named = neurons.filter(neurons[flag]).sort_by([(effect, "descending")])
        if len(named):
            yield from ((f"{kind}_{name}", named[name][0].as_py()) for name in names)
