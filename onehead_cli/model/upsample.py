"""From stride 32 to stride 16."""

from torch import Tensor, nn

UPSAMPLED_CHANNELS = 640


class Upsample(nn.Module):
    """1x1 convolution, batch norm, PixelShuffle: float [B, C, h, w] -> [B, 640, 2h, 2w]."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, UPSAMPLED_CHANNELS * 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(UPSAMPLED_CHANNELS * 4)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        if not len(x):  # a process without pictures; PixelShuffle has no backward for an empty batch
            return x.reshape(0, UPSAMPLED_CHANNELS, 2 * x.shape[2], 2 * x.shape[3])
        out: Tensor = self.shuffle(x)
        return out
