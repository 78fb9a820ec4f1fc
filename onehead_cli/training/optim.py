"""AdamW with a lower rate for the backbone, warm-up and cosine."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from onehead_cli.config.training import ScheduleConfig, StudentConfig
from onehead_cli.training.objective import Objective


def build_optimizer(objective: Objective, config: ScheduleConfig) -> torch.optim.AdamW:
    """One group each for backbone and new layers, with and without weight decay, and one for the task weights.

    Each group keeps its peak rate as `peak_lr`; `set_lr` scales it.
    """
    backbone = {id(p) for p in objective.model.backbone.parameters()}
    groups: list[dict[str, object]] = []
    for in_backbone in (True, False):
        lr = config.lr * (config.backbone_lr_factor if in_backbone else 1.0)
        mine = [p for p in objective.learned() if (id(p) in backbone) == in_backbone]
        # Norm scales and biases have one dimension; decay would pull them to 0 for no reason.
        for decayed in (True, False):
            params = [p for p in mine if (p.ndim > 1) == decayed]
            if params:
                groups.append(
                    {"params": params, "peak_lr": lr, "weight_decay": config.weight_decay if decayed else 0.0}
                )
    if isinstance(config, StudentConfig) and objective.task_weights.r.requires_grad:
        groups.append(
            {
                "params": [objective.task_weights.r],
                "peak_lr": config.weights_lr,
                "weight_decay": config.weights_decay,
            }
        )
    return torch.optim.AdamW(groups, lr=config.lr)


def lr_factor(step: int, total_steps: int, warmup: float) -> float:
    """Share of the peak rate at a step (from 0): rising in a line, then falling as a half cosine to 0."""
    rising = max(1, round(warmup * total_steps))
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total_steps - rising)))


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale the gradients down to a common norm of at most `max_norm`; returns the norm before."""
    return float(nn.utils.clip_grad_norm_(parameters, max_norm))
