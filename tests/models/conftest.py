"""A tiny GPT-2 whose gains and biases are not what the initialisation leaves them at."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from confreg.models.build import build_model
from confreg.settings import ModelSettings


@pytest.fixture
def make_model() -> Callable[..., PreTrainedModel]:
    """A function that builds such a model, in training mode, with dropout so that the mode shows."""

    def make(*, tied: bool = False, dropout: float = 0.2, seed: int = 0) -> PreTrainedModel:
        settings = ModelSettings(n_layer=2, d_model=16, d_mlp=12, n_head=2, tied=tied, dropout=dropout)
        model = build_model(settings, vocabulary_size=19, block_length=10, seed=seed)
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        return model

    return make


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 19, (3, 10), generator=torch.Generator().manual_seed(5))
