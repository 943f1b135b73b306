"""Small models with nothing at 0 or 1, and gradients of documents by autograd in float64."""

from __future__ import annotations

import numpy as np
import torch

from hpcscale.config.model import Shape
from hpcscale.data.store import TokenStore
from hpcscale.model.build import build_model
from training import LENGTH, VOCABULARY

EOT = VOCABULARY - 1


def shaken(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Biases and norms away from 0 and 1, where a mistake could hide."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def gpt2(seed: int) -> torch.nn.Module:
    """LayerNorm, biases, tied embeddings and square Conv1D."""
    shape = Shape(layers=2, width=32, heads=2, seed=seed)
    return shaken(build_model(shape, VOCABULARY, LENGTH, EOT), seed)


def llama(seed: int) -> torch.nn.Module:
    """RMSNorm, Linear without bias, an untied head."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
    )
    torch.manual_seed(seed)
    return shaken(LlamaForCausalLM(config), seed)


def exact_gradients(
    model: torch.nn.Module, store: TokenStore, scale: dict[str, torch.Tensor] | None = None
) -> np.ndarray:  # type: ignore[type-arg]
    """Of each document's mean token loss, all parameters in one vector, in float64."""
    exact, rows = model.double(), []
    for position in range(store.n_documents):
        document = np.asarray(store.tokens(position)).astype(np.int64)
        context = np.concatenate([[EOT], document[:-1]])
        exact.zero_grad()
        loss = torch.zeros((), dtype=torch.float64)
        for begin in range(0, len(document), LENGTH):
            piece = slice(begin, begin + LENGTH)
            logits = exact(input_ids=torch.tensor(context[piece][None])).logits[0]
            targets = torch.tensor(document[piece])
            loss = loss + torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        (loss / len(document)).backward()
        gradient = [
            p.grad * (1.0 if scale is None else scale[name].double())
            for name, p in exact.named_parameters()
        ]
        rows.append(torch.cat([g.flatten() for g in gradient]).numpy().copy())
    exact.zero_grad()
    model.float()
    return np.stack(rows)


def relative(found: np.ndarray, expected: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
