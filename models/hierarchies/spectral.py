"""Spectral regularization: a penalty on the largest singular values of a network's weights."""

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ppvae.arguments import Count, checked

STEPS_AT_START = 40


class SpectralNorms(nn.Module):
    """`sum_i s_i`, with s_i the largest singular value of the i-th layer, which limits how steep it can be.

    For a convolution it is that of its weight as a matrix `[out, in * k * k]`, by power iteration; as a map of images
    the layer can be up to k times as steep. For a batch norm it is that of its diagonal map, the largest absolute
    scale. Where networks are steep, a guide's KL can be many nats larger on data slightly different from the training
    data.

    The vectors of the power iteration are buffers: each call in training continues from the last; in evaluation they
    do not change. An s_i found in this way is never too large, and exact once its vector has converged.

    Source: Yoshida & Miyato 2017 (arXiv:1705.10941); as used here: Vahdat & Kautz 2020 (arXiv:2007.03898), section 3.2.

    Args:
        network: whose layers are measured; pass the same one, or a copy of it, to each call.
        iterations: per call in training.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Conv2d(3, 8, 3)
        >>> norms, exact = SpectralNorms(network), torch.linalg.matrix_norm(network.weight.flatten(1), 2)
        >>> torch.allclose(norms(network), exact, rtol=1e-3)
        True
    """

    @checked
    def __init__(self, network: nn.Module, iterations: Count = 4):
        super().__init__()
        self.iterations = iterations
        self._scales, alike = [], defaultdict(list)  # weights of one shape are iterated together
        for name, module in network.named_modules():
            weight = f"{name}.weight".lstrip(".")
            if isinstance(module, nn.Conv2d):
                alike[module.weight.flatten(1).shape].append(weight)
            elif isinstance(module, nn.BatchNorm2d) and module.affine:
                self._scales.append(weight)
        self._alike = list(alike.values())
        parameters = dict(network.named_parameters())
        for i, names in enumerate(self._alike):
            weights = _stacked(parameters, names)
            v = normalize(torch.randn_like(weights[:, 0]), dim=-1)
            self.register_buffer(f"v{i}", _iterated(weights, v, STEPS_AT_START))

    def forward(self, network: nn.Module) -> Tensor:
        """The sum over all layers, a scalar."""
        parameters = dict(network.named_parameters())
        found = [parameters[name].abs().amax() for name in self._scales]
        for i, names in enumerate(self._alike):
            weights, v = _stacked(parameters, names), self.get_buffer(f"v{i}")
            if self.training:
                v.copy_(_iterated(weights, v, self.iterations))
            found.append((weights @ v.unsqueeze(-1)).squeeze(-1).norm(dim=-1).sum())
        return torch.stack(found).sum()


def _stacked(parameters: dict[str, nn.Parameter], names: list[str]) -> Tensor:
    """Convolutions' weights as matrices, `[n, out, in * k * k]`."""
    return torch.stack([parameters[name].flatten(1) for name in names])


@torch.no_grad()
def _iterated(weights: Tensor, v: Tensor, iterations: int) -> Tensor:
    """The right singular vectors `[n, in * k * k]` after a number of power iterations, `v <- W'W v / |W'W v|`."""
    for _ in range(iterations):
        u = normalize((weights @ v.unsqueeze(-1)).squeeze(-1), dim=-1)
        v = normalize((u.unsqueeze(1) @ weights).squeeze(1), dim=-1)
    return v
