"""A forecast of a rank's memory in training, and the ZeRO stage that follows. No torch.

Bytes of a model of P parameters on N ranks; b is 4 in fp32, 2 in bf16 and fp16. Adam keeps two
fp32 moments, and gradients are accumulated in fp32 (Rajbhandari et al. 2020, "ZeRO", section 3.1,
with our accumulation):

    torch        weights 4P              gradients 4P              Adam 8P
    ZeRO 0       weights 4P              gradients 4P              Adam 8P
    ZeRO 1       weights bP              gradients 4P (+ 2P: b=2)  Adam and fp32 weights 12P/N
    ZeRO 2       weights bP              gradients 4P/N            Adam and fp32 weights 12P/N
    ZeRO 3       weights bP/N            gradients 4P/N            Adam and fp32 weights 12P/N

Beside these: the bf16 copies that autocast keeps (torch, 2P), the bucket that gradients are reduced
in (ZeRO, b for each of P or 5e8), and at stage 3 the weights in use (b for each of P or 1e9).
Offloading moves Adam, the fp32 weights and their gradients to the host.

Activations of one micro-batch of t tokens, with L layers, width d and a vocabulary of V (after
Korthikanti et al. 2022, section 4.1, for a GPT-2 without dropout whose attention stores no T x T):

    28 L t d numbers: 8 in attention and norms, 20 in the MLP, whose GELU is made of five operations
    checkpointing: L t d for the inputs of the blocks, and one block at a time
    head: log-softmax, its gradient and that of the logits, in fp32: 12 t V bytes
"""

from __future__ import annotations

from dataclasses import dataclass

from hpcscale.config.train import TrainConfig
from hpcscale.model.sizes import ModelSize as ModelSize
from hpcscale.train.zero import BUCKET, LIVE, stages_of

#: Numbers that a block keeps for its backward, of each token, in widths.
BLOCK_NUMBERS = 28
#: The same under autocast, where norms and the residual stream stay fp32; in bytes.
_AUTOCAST_BYTES = 72
#: The share of a GPU that a forecast may fill; contexts, kernels and fragmentation take the rest.
USABLE = 0.9


@dataclass(frozen=True)
class MemoryForecast:
    """Bytes of one rank on its device, and on the host where the optimizer is offloaded.

    ``step``: what the optimizer step takes when activations are gone.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    step: int
    host: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + max(self.activations, self.step)


def forecast_memory(
    size: ModelSize,
    config: TrainConfig,
    *,
    engine: str,
    stage: int,
    precision: str,
    world_size: int,
    sequence_length: int,
) -> MemoryForecast:
    """The peak of a step of several passes, as if all parts were largest at once."""
    count, item = size.parameters, 4 if precision == "fp32" else 2
    tokens = config.micro_batch * sequence_length
    working = activation_bytes(size, tokens, engine, precision, config.activation_checkpointing)
    host = 0.0
    if engine == "torch" or stage == 0:
        weights, gradients, optimizer = 4 * count, 4 * count, 8 * count
        working += 0 if item == 4 else item * count
        step = 4 * count if engine == "deepspeed" and world_size > 1 else 0.0
    else:
        part = count / world_size
        weights = item * (count if stage < 3 else part)
        gradients = 4 * part if stage > 1 else 4 * count + (0 if item == 4 else item * count)
        optimizer, step = 12 * part, 4 * part
        if config.offload == "optimizer":
            optimizer, step, host = 0.0, 0.0, 16 * part
        working += item * (min(BUCKET, count) + (min(LIVE, count) if stage == 3 else 0))
    return MemoryForecast(*map(round, (weights, gradients, optimizer, working, step, host)))


def activation_bytes(
    size: ModelSize, tokens: int, engine: str, precision: str, checkpointing: bool
) -> float:
    """The peak of the activations of one micro-batch of ``tokens`` tokens."""
    item = 4 if precision == "fp32" else 2
    autocast = engine == "torch" and item == 2
    one = tokens * size.width * (_AUTOCAST_BYTES if autocast else BLOCK_NUMBERS * item)
    head = tokens * size.vocabulary * 12
    if not checkpointing:
        return one * size.layers + head
    stream = 4 if autocast else item
    return tokens * size.width * stream * size.layers + max(one, head)


def forecast_stages(
    size: ModelSize,
    config: TrainConfig,
    *,
    engine: str,
    precision: str,
    world_size: int,
    sequence_length: int,
) -> dict[int, MemoryForecast]:
    """The forecast of each stage that `zero: auto` may choose."""
    return {
        stage: forecast_memory(
            size,
            config,
            engine=engine,
            stage=stage,
            precision=precision,
            world_size=world_size,
            sequence_length=sequence_length,
        )
        for stage in stages_of(engine, precision, config.offload)
    }


def lowest_fitting(stages: dict[int, MemoryForecast], memory: int) -> int:
    """The lowest stage whose forecast fits into ``memory`` bytes; the last where none does."""
    fitting = [stage for stage, found in stages.items() if found.total <= USABLE * memory]
    return min(fitting, default=max(stages))
