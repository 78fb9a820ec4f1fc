"""The skip: the backbone's last map of stride 16, added to what was upsampled from stride 32.

Ours, not the described network's: a shuffled map of stride 32 hardly knows where a small thing is.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

#: A wider map is not taken: the closed-form classification keeps the last channels of the 640 for itself.
MAX_SKIP_CHANNELS = 320


class Skip(nn.Module):
    """Add a map to the first channels of the features, through a batch norm of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor, skipped: Tensor) -> Tensor:
        """Features float [B, 640, h, w] and the map [B, channels, h, w] -> [B, 640, h, w]."""
        rest = features.shape[1] - skipped.shape[1]
        return features + F.pad(self.norm(skipped), (0, 0, 0, 0, 0, rest))
