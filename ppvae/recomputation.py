"""Gradient checkpointing: activations are recomputed in the backward pass, to save memory."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint


def recomputed(network: nn.Module, x: Tensor) -> Tensor:
    """`network(x)`, keeping only x for the backward pass, which runs the network a second time.

    Gradients are those of `network(x)`; batch norm's running statistics see the batch once. Memory is that of one
    network at a time instead of all; the price is about one more forward pass.

    Not for networks that draw random numbers (dropout): the second run would draw different ones. Compiled steps
    (`ppvae.fit(compile=True)`) give the same gradients; whether they save memory is the compiler's choice.

    Source: Chen et al. 2016 (arXiv:1604.06174).

    Args:
        network: takes and returns one tensor.
        x: its input.

    Example:
        >>> network, x = nn.Sequential(nn.Linear(5, 50), nn.Tanh(), nn.Linear(50, 5)), torch.randn(4, 5)
        >>> plain, = torch.autograd.grad(network(x).sum(), [network[0].weight])
        >>> again, = torch.autograd.grad(recomputed(network, x).sum(), [network[0].weight])
        >>> torch.equal(plain, again)
        True
    """
    if not torch.is_grad_enabled():
        return network(x)
    # The current ones: before the backward pass a compiled step puts the module's own back.
    parameters, buffers = dict(network.named_parameters()), dict(network.named_buffers())

    def run(x: Tensor) -> Tensor:
        out = functional_call(network, parameters | buffers, (x,))
        # The second run updates copies: running statistics of the network see the batch once.
        buffers.update({name: buffer.clone() for name, buffer in buffers.items()})
        return out

    return cast(Tensor, checkpoint(run, x, use_reentrant=False, preserve_rng_state=False))
