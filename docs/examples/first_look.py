# %% [markdown]
# # A first look at a run
#
# Open this file as a notebook (VS Code, Jupyter with jupytext) or run it: `python docs/examples/first_look.py runs/default/seed=0`.
# It reads the tables of a run, measures a checkpoint again, and checks one number by ablating the neuron in the real model.

# %%
import sys
from pathlib import Path

import plotly.express as px
import torch

from confreg import MeasurementRequest, RecordStore, measure, open_run

RUN = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/default/seed=0")

# %% [markdown]
# ## The tables
# One row for each neuron of the last MLP and each measured step; `docs/columns.md` explains every column. Nats, means over positions.

# %%
store = RecordStore(RUN / "records")
neurons = store.read("neurons").to_pandas()
model_rows = store.read("model").to_pandas()
last = int(neurons["step"].max())
print(model_rows[["step", "loss_nats", "excess_loss_nats", "n_entropy_neurons", "n_entropy_neurons_control"]].to_string(index=False))

# %%
shown = [
    "layer",
    "neuron",
    "entropy_effect",
    "entropy_effect_stderr",
    "entropy_norm_mediated_share",
    "null_space_share",
    "is_entropy_neuron",
]
strongest = neurons[neurons["step"] == last].nlargest(5, "entropy_effect")
print(strongest[shown].to_string(index=False))

# %% [markdown]
# ## Trajectories of the strongest neurons

# %%
tracked = neurons[neurons["neuron"].isin(strongest["neuron"])].astype({"neuron": str})
figure = px.line(tracked, x="step", y="entropy_effect", color="neuron", error_y="entropy_effect_stderr", log_x=True)
figure.update_yaxes(title="entropy effect, nats").update_xaxes(title="optimizer step (the log scale leaves step 0 out)")
figure.write_html("trajectories.html", include_plotlyjs=True)  # in a notebook: figure.show()

# %% [markdown]
# ## The same measurement again
# `open_run` gives the model of a saved step with the very blocks and counts of the live measurement. On the same machine, with as many
# threads, the rows are the same to the bit.

# %%
model, blocks, token_counts = open_run(RUN, last)
again = measure(model, blocks, token_counts, MeasurementRequest(), step=last)
live, offline = store.read("neurons", last)["entropy_effect"].to_numpy(), again["neurons"]["entropy_effect"].to_numpy()
print(f"largest difference of an entropy effect between live and again: {abs(live - offline).max():.1e} nats")

# %% [markdown]
# ## Is the number true?
# Replace the strongest neuron by its mean in the real model, with a hook, and compare the mean |change of entropy| with the table.

# %%
neuron = int(strongest.iloc[0]["neuron"])
projection = model.transformer.h[-1].mlp.c_proj  # of the GPT-2 family: its input is the neurons' activations


def entropies(ablated_to=None):
    """Entropy of the prediction at every position of the measured blocks, nats."""

    def replace(_module, inputs):
        activations = inputs[0].clone()
        activations[..., neuron] = ablated_to
        return (activations,)

    handle = projection.register_forward_pre_hook(replace) if ablated_to is not None else None
    with torch.no_grad():
        log_probs = model(blocks.measured).logits.log_softmax(-1)
    if handle:
        handle.remove()
    return -(log_probs.exp() * log_probs).sum(-1)


seen = []
handle = projection.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0][..., neuron].mean()))
with torch.no_grad():
    model(blocks.reference)
handle.remove()

scored = blocks.scored_positions()
by_hand = (entropies(ablated_to=seen[0]) - entropies())[scored].abs().mean().item()
table = float(strongest.iloc[0]["entropy_effect"])
print(f"neuron {neuron}: entropy effect {table:.6f} nats in the table, {by_hand:.6f} by hand")
assert abs(table - by_hand) < 1e-4 + 1e-3 * table
