"""A plugin: a learning rate schedule with a flag of its own, and an architecture.

fairseq-train data-bin/wikitext-2 --user-dir examples/plugin --arch transformer_lm_tiny
    --lr-scheduler warmup_stable_decay --warmup-updates 500 --decay-updates 2000 --max-update 10000 …
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.models import register_model_architecture
from fairseq.optim import register_lr_scheduler
from fairseq.optim.config import OptimizationConfig
from fairseq.optim.lr_schedules import Schedule


@dataclass(frozen=True)
class WarmupStableDecayConfig:
    """Schedule warmup_stable_decay."""

    warmup_updates: int = flag(0, "updates over which the learning rate rises to its maximum", minimum=0)
    decay_updates: int = flag(0, "last updates, over which the learning rate falls to 0", minimum=0)


@register_lr_scheduler("warmup_stable_decay", config=WarmupStableDecayConfig)
def warmup_stable_decay(config: WarmupStableDecayConfig, optimization: OptimizationConfig) -> Schedule:
    """Returns a linear rise, a level stretch, and a linear fall that ends at --max-update (Hu et al., 2024)."""

    def lr_at(num_updates: int, epoch: int) -> float:
        rise = (num_updates + 1) / max(config.warmup_updates, 1)
        fall = (optimization.max_update - num_updates) / max(config.decay_updates, 1)
        return optimization.lr[0] * min(rise, fall, 1.0)

    return lr_at


@register_model_architecture("transformer_lm", "transformer_lm_tiny")
def transformer_lm_tiny() -> Mapping[str, int]:
    """Returns the fields in which the architecture differs from the model's defaults."""
    return dict(decoder_layers=2, decoder_embed_dim=64, decoder_ffn_embed_dim=256, decoder_attention_heads=4)
