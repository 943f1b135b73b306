"""A few token ids to try a model on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hpcscale.model.limits import position_limit, text_config

LENGTH = 12


def sample_rows(model: nn.Module, rows: int = 2, length: int = LENGTH) -> Tensor:
    """Token ids int64 [rows, length] on the model's device, the same at every call; shorter where
    the model reads less. The lowest ids are left out, since these are often special tokens."""
    config = text_config(model)
    size, limit = int(config.vocab_size), position_limit(config) or length
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(min(8, size // 2), size, (rows, min(length, limit)), generator=generator)
    return drawn.to(next(model.parameters()).device)
