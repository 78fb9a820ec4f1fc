"""Sub-pixel convolution that starts without a checkerboard (ICNR; Aitken et al., arXiv 1707.02937)."""

import torch

from onehead_cli.model.upsample import UPSAMPLED_CHANNELS, Upsample


@torch.no_grad()
def start_equal(upsample: Upsample) -> None:
    """Make the four sub-kernels that PixelShuffle deals to a 2 x 2 square of cells equal, so that the square is even.

    The batch norm's rows are equal as they are, in a new network.
    """
    kernels = upsample.conv.weight.view(UPSAMPLED_CHANNELS, 4, -1)
    kernels.copy_(kernels[:, :1].clone().expand_as(kernels))
