"""The model, from scratch or pretrained, and its optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from confreg.settings.ranges import setting


@dataclass
class ModelChoice:
    """What a run trains: one of the kinds below, which share nothing but their place in the configuration."""


@dataclass
class ModelSettings(ModelChoice):
    """A transformers causal language model from scratch, built from its configuration."""

    family: str = "gpt2"  # a row of confreg.models.families
    n_layer: int = setting(2, at_least=1)
    d_model: int = setting(64, at_least=2)
    d_mlp: int = setting(64, at_least=1)  # neurons in each layer
    n_head: int = setting(4, at_least=1)
    activation: str = "gelu_pytorch_tanh"
    dropout: float = setting(0.0, at_least=0.0, below=1.0)  # in embeddings, attention and residual writes
    tied: bool = False  # whether the unembedding is the embedding
    norm_epsilon: float = setting(1e-5, above=0.0)
    norm: str | None = setting(None, choices=("layernorm", "rmsnorm", "frozen", "none"))  # None: the family's own; see confreg.models.norms
    norm_scope: str = setting("all", choices=("all", "final"))  # which norms ``norm`` replaces
    output_bias: bool = False  # a trained bias of the unembedding, zero at the start

    def complaints(self) -> Iterator[str]:
        if self.norm is None and self.norm_scope == "final":
            yield f"norm_scope is {self.norm_scope!r} and norm is null; expected a norm to put there, such as model.norm=frozen."
        if self.d_model % self.n_head:
            yield f"d_model is {self.d_model} and n_head is {self.n_head}; expected a multiple of n_head."


DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class LoraSettings:
    """Low-rank changes of some projections in place of all weights (package peft); what is measured is what they add up to."""

    rank: int = setting(8, at_least=1)
    alpha: float = setting(16.0, above=0.0)  # the change is alpha / rank times the product of the two small matrices
    dropout: float = setting(0.0, at_least=0.0, below=1.0)  # of what goes into the change
    targets: list[str] = field(default_factory=list)  # last parts of module names, such as down_proj; none: every projection of every block

    def complaints(self) -> Iterator[str]:
        if any(not each.strip() for each in self.targets):
            yield f"targets is {self.targets}; expected names of modules, such as [down_proj, up_proj], or none for all projections."


@dataclass
class PretrainedSettings(ModelChoice):
    """Weights that exist already: published ones, a folder, a GGUF file, a run or one of its checkpoints."""

    source: str = ""  # NAME on the hub, FOLDER of save_pretrained, FILE.gguf, RUN, or step=00000512.ckpt
    revision: str | None = None  # of a NAME: branch, tag or commit; of a RUN: a saved step. None: main, or the last step
    dtype: str = setting("float32", choices=DTYPES)  # of the weights in training; measurements read them in fp32
    tokenizer: str | None = None  # of another source than the weights'
    pickled: bool = False  # weights of a folder or NAME without safetensors: read a pickle, by torch's safe loader
    dropout: float | None = setting(None, at_least=0.0, below=1.0)  # everywhere the architecture has one; None: as published
    lora: LoraSettings | None = None  # None: all weights are trained

    def complaints(self) -> Iterator[str]:
        if not self.source.strip():
            yield "source is empty; expected the name of a published model, a folder, a GGUF file or a run: model.source=NAME."


@dataclass
class OptimizerSettings:
    """AdamW; norms and biases do not decay. Warm-up, then half a cosine down to a share of the peak; a share of 1 keeps it constant."""

    learning_rate: float = setting(3e-3, above=0.0)
    weight_decay: float = setting(1.0, at_least=0.0)
    beta1: float = setting(0.9, at_least=0.0, below=1.0)
    beta2: float = setting(0.95, at_least=0.0, below=1.0)
    epsilon: float = setting(1e-8, above=0.0)
    warmup_steps: int = setting(100, at_least=0)  # optimizer steps, linear
    final_learning_rate_share: float = setting(1.0, at_least=0.0, at_most=1.0)  # of learning_rate, at the end of the cosine
