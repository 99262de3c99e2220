"""The figures of a comparison: which measure each shows, beside what, and how to read it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """One figure over optimizer steps.

    Attributes:
        measure: column of ``measures.MEASURES``; also the figure's place on the page.
        read: one sentence on how to read it.
        source: tables and columns of the records that it shows.
        reference: a measure to compare with, drawn dotted; ``reference_name`` says what it is.
        is_log: a logarithmic axis where every value is above zero.
    """

    measure: str
    title: str
    read: str
    unit: str
    source: tuple[str, ...]
    reference: str = ""
    reference_name: str = ""
    is_log: bool = False


_FORMED = "how many neurons are in a spell of at least three namings in a row, counted from the spell's first step."

PARTS: dict[str, tuple[Panel, ...]] = {
    "Neurons": (
        Panel(
            "n_entropy_neurons",
            "Entropy neurons named",
            "There are entropy neurons where the line stays above the dotted one, which is what the control names.",
            "neurons",
            ("model.n_entropy_neurons", "model.n_entropy_neurons_control"),
            "n_entropy_neurons_control",
            "control",
        ),
        Panel(
            "n_frequency_neurons",
            "Token-frequency neurons named",
            "There are token-frequency neurons where the line stays above the dotted one, which is what the control names.",
            "neurons",
            ("model.n_frequency_neurons", "model.n_frequency_neurons_control"),
            "n_frequency_neurons_control",
            "control",
        ),
        Panel("n_formed_entropy_neurons", "Entropy neurons formed", f"Steadier: {_FORMED}", "neurons", ("neurons.is_entropy_neuron",)),
        Panel(
            "n_formed_frequency_neurons",
            "Token-frequency neurons formed",
            f"Steadier: {_FORMED}",
            "neurons",
            ("neurons.is_frequency_neuron",),
        ),
        Panel(
            "largest_entropy_effect",
            "Largest effect on entropy",
            "How much the one neuron that matters most for the model's entropy moves it, on average over positions, when it is ablated.",
            "entropy effect (nats)",
            ("neurons.entropy_effect",),
        ),
        Panel(
            "largest_null_space_share",
            "Largest null-space share",
            "How much of one neuron's output lies where the unembedding hardly looks; dotted: the best of as many random directions.",
            "share",
            ("neurons.null_space_share", "neurons.null_space_share_chance"),
            "null_space_share_chance",
            "chance",
        ),
    ),
    "Predictions and unembedding": (
        Panel(
            "loss_nats",
            "Loss",
            "Lower is better; dotted, where the language is known: the best that any reader of the context could do.",
            "loss (nats per token)",
            ("model.loss_nats", "model.bayes_loss_nats"),
            "bayes_loss_nats",
            "best predictor",
        ),
        Panel(
            "excess_loss_nats",
            "Excess loss",
            "How much more the model loses than the best predictor on the same positions, so different languages may be compared.",
            "excess loss (nats)",
            ("model.excess_loss_nats",),
            is_log=True,
        ),
        Panel(
            "excess_entropy_nats",
            "Confidence against the truth",
            "Above zero the model is less sure than the evidence warrants, below zero it is too sure.",
            "excess entropy (nats)",
            ("model.excess_entropy_nats",),
        ),
        Panel(
            "entropy_nats",
            "Entropy",
            "How unsure the model itself is, on average; untrained models start near the logarithm of the vocabulary's size.",
            "entropy (nats)",
            ("model.entropy_nats",),
        ),
        Panel(
            "calibration_error",
            "Calibration error",
            "How far the probability of the likeliest token is from how often it comes true; zero is perfect.",
            "probability",
            ("model.calibration_error",),
        ),
        Panel(
            "spectrum_tail",
            "Tail of the unembedding's spectrum",
            "The smallest singular value over the median one; a fall means that an effective null space opens.",
            "ratio",
            ("spectrum.singular_value",),
            is_log=True,
        ),
    ),
}
PANELS = tuple(panel for panels in PARTS.values() for panel in panels)
