"""In one process the synchronised batch-norm is torch's own; two processes are compared in test_distributed.py."""

import copy

import pytest
import torch
from torch import nn

from onehead_cli.training.synchronised_norm import SynchronisedBatchNorm


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_it_computes_what_batch_norm_does(dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    reference = nn.BatchNorm2d(5).to(dtype)
    with torch.no_grad():
        reference.weight.copy_(torch.randn(5, generator=generator))
        reference.bias.copy_(torch.randn(5, generator=generator))
    norm = SynchronisedBatchNorm(copy.deepcopy(reference))
    for _ in range(3):
        # A mean far from 0, which is where a variance from squares would lose its digits.
        x = torch.randn(4, 5, 3, 2, generator=generator).to(dtype) + 100
        grad = torch.randn(4, 5, 3, 2, generator=generator).to(dtype)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [module(one) for module, one in zip((reference, norm), inputs, strict=True)]
        for output in outputs:
            output.backward(grad)
        torch.testing.assert_close(outputs[1], outputs[0], rtol=tolerance, atol=100 * tolerance)
        torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=tolerance, atol=100 * tolerance)
    for (name, a), (other, b) in zip(reference.state_dict().items(), norm.state_dict().items(), strict=True):
        assert name == other
        torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(norm.weight.grad, reference.weight.grad, rtol=tolerance, atol=100 * tolerance)
    torch.testing.assert_close(norm.eval()(x), reference.eval()(x), rtol=100 * tolerance, atol=100 * tolerance)


def test_its_gradient_is_that_of_finite_differences():
    norm = SynchronisedBatchNorm(nn.BatchNorm2d(2).double())
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(norm, (x,))
