"""What a dashboard shows of a step's neurons beside the scalars: the top of the list, and values for histograms."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from confreg.records.store import RecordStore

NAMED = ("is_entropy_neuron", "is_frequency_neuron")
TOP_COLUMNS = (
    *("step", "layer", "neuron", *NAMED),
    *("entropy_effect", "entropy_effect_stderr", "entropy_norm_mediated_share", "entropy_norm_mediated_share_stderr"),
    *("loss_effect", "loss_effect_stderr", "norm_mediated_share", "norm_mediated_share_stderr"),
    *("kl_from_frequency_effect", "kl_from_frequency_effect_stderr", "frequency_mediated_share", "frequency_mediated_share_stderr"),
    *("null_space_share", "null_space_share_chance", "frequency_cosine", "w_out_norm", "logit_var"),
)
HISTOGRAM_COLUMNS = (
    *("w_out_norm", "logit_var", "null_space_share", "frequency_cosine"),
    *("entropy_effect", "loss_effect", "kl_from_frequency_effect"),
    *("entropy_norm_mediated_share", "frequency_mediated_share"),
)


def top_neurons(store: RecordStore, step: int, n_rows: int) -> pa.Table:
    """The neurons of a step that a reader looks at first.

    Returns:
        At most ``n_rows`` rows with ``TOP_COLUMNS`` of the records: named neurons before the others, then the largest effect on
        entropy first.
    """
    neurons = store.read("neurons", step)
    is_named = pc.cast(pc.or_(*(neurons[name] for name in NAMED)), pa.int8())
    order = pc.sort_indices(
        pa.table({"is_named": is_named, "entropy_effect": neurons["entropy_effect"]}),
        sort_keys=[("is_named", "descending"), ("entropy_effect", "descending")],
    )
    return neurons.select(TOP_COLUMNS).take(order[:n_rows])


def histogram_values(store: RecordStore, step: int) -> dict[str, list[float]]:
    """Values over all measured neurons of a step, by column; nulls are left out, and so is a column of nothing else."""
    neurons = store.read("neurons", step)
    values = {name: pc.drop_null(neurons[name]).to_pylist() for name in HISTOGRAM_COLUMNS}
    return {name: each for name, each in values.items() if each}
