"""One neck a task: where the tasks part before they meet again in the head."""

from torch import Tensor, nn
from torch.nn import functional as F

from onehead_cli.model.upsample import UPSAMPLED_CHANNELS

NECK_CHANNELS = 256


class Neck(nn.Module):
    """A depthwise-separable block: float [B, 640, h, w] -> [B, 256, h, w].

    dropout: how often a channel is left out in training (Tompson et al., arXiv 1411.4280), drawn per image from torch's
        own generator. It is part of the training, not of the network. Each of several processes draws for its own
        images, so the result depends on their number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            UPSAMPLED_CHANNELS, UPSAMPLED_CHANNELS, 3, padding=1, groups=UPSAMPLED_CHANNELS, bias=False
        )
        self.norm1 = nn.BatchNorm2d(UPSAMPLED_CHANNELS)
        self.pointwise = nn.Conv2d(UPSAMPLED_CHANNELS, NECK_CHANNELS, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(NECK_CHANNELS)
        self.act = nn.SiLU(inplace=True)
        self.dropout = 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.depthwise(x)))
        out: Tensor = self.act(self.norm2(self.pointwise(x)))
        return F.dropout2d(out, self.dropout, self.training) if self.dropout else out
