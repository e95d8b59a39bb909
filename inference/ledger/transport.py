"""Maps of vectors with parameters for each data point, which turn its guide into one of a richer family.

A map takes v `[K, B, D]` to u with `log |det du/dv|`, `[K, B]`, and back. With all parameters at their start it is the
identity. Parameters are a dict of tensors `[B, ...]`.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

Parameters = dict[str, Tensor]


class Transport(ABC):
    """A map, for D dimensions."""

    def __init__(self, num_dims: int):
        self.num_dims = num_dims

    @abstractmethod
    def start(self, like: Tensor) -> Parameters:
        """Parameters of the identity for as many data points as `like` `[B, D]`, of its type."""

    @abstractmethod
    def forward(self, parameters: Parameters, v: Tensor) -> tuple[Tensor, Tensor]:
        """u, and `log |det du/dv|`."""

    @abstractmethod
    def inverse(self, parameters: Parameters, u: Tensor) -> tuple[Tensor, Tensor]:
        """v, and `log |det du/dv|` there."""


class Diagonal(Transport):
    """`u_i = exp(a_i) v_i + b_i`: each dimension moved and scaled by itself."""

    def start(self, like: Tensor) -> Parameters:
        return {"shift": torch.zeros_like(like), "log_diagonal": torch.zeros_like(like)}

    def forward(self, parameters: Parameters, v: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = parameters["log_diagonal"]
        return v * log_scale.exp() + parameters["shift"], log_scale.sum(-1).expand(v.shape[:2])

    def inverse(self, parameters: Parameters, u: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = parameters["log_diagonal"]
        return (u - parameters["shift"]) * (-log_scale).exp(), log_scale.sum(-1).expand(u.shape[:2])


class Affine(Transport):
    """`u = L v + b`, with L lower triangular: it maps a Gaussian to one of any mean and covariance."""

    def start(self, like: Tensor) -> Parameters:
        return {
            "shift": torch.zeros_like(like),
            "log_diagonal": torch.zeros_like(like),
            "lower": like.new_zeros(len(like), self.num_dims, self.num_dims),
        }

    def forward(self, parameters: Parameters, v: Tensor) -> tuple[Tensor, Tensor]:
        u = (self._factor(parameters) @ v[..., None])[..., 0] + parameters["shift"]
        return u, parameters["log_diagonal"].sum(-1).expand(v.shape[:2])

    def inverse(self, parameters: Parameters, u: Tensor) -> tuple[Tensor, Tensor]:
        centered = (u - parameters["shift"]).permute(1, 2, 0)  # the factor is solved for all particles at once
        v = torch.linalg.solve_triangular(self._factor(parameters), centered, upper=False).permute(2, 0, 1)
        return v, parameters["log_diagonal"].sum(-1).expand(u.shape[:2])

    def _factor(self, parameters: Parameters) -> Tensor:
        return parameters["lower"].tril(-1) + parameters["log_diagonal"].exp().diag_embed()


class SinhArcsinh(Transport):
    """`u_i = sinh(exp(a_i) arcsinh(v_i) + b_i)`: each dimension skewed, its tails lighter or heavier.

    Source: Jones & Pewsey 2009, Biometrika 96(4).
    """

    def start(self, like: Tensor) -> Parameters:
        return {"log_tail": torch.zeros_like(like), "skew": torch.zeros_like(like)}

    def forward(self, parameters: Parameters, v: Tensor) -> tuple[Tensor, Tensor]:
        inner = parameters["log_tail"].exp() * v.arcsinh() + parameters["skew"]
        return inner.sinh(), self._log_det(parameters, v, inner)

    def inverse(self, parameters: Parameters, u: Tensor) -> tuple[Tensor, Tensor]:
        inner = u.arcsinh()
        v = ((inner - parameters["skew"]) * (-parameters["log_tail"]).exp()).sinh()
        return v, self._log_det(parameters, v, inner)

    def _log_det(self, parameters: Parameters, v: Tensor, inner: Tensor) -> Tensor:
        return (inner.cosh().log() + parameters["log_tail"] - torch.log1p(v.square()) / 2).sum(-1)


class Coupling(Transport):
    """`u_2 = v_2 exp(s(v_1)) + t(v_1)`, `u_1 = v_1`, with s and t a network of one hidden layer; then reversed.

    Source: Dinh et al. 2017 (arXiv:1605.08803).
    """

    def __init__(self, num_dims: int):
        super().__init__(num_dims)
        self.num_kept = num_dims // 2
        self.num_hidden = max(8, min(2 * num_dims, 64))

    def start(self, like: Tensor) -> Parameters:
        num, moved = len(like), self.num_dims - self.num_kept
        scale = max(1, self.num_kept) ** -0.5
        return {
            "first": scale * torch.randn(num, self.num_kept, self.num_hidden, dtype=like.dtype, device=like.device),
            "bias": like.new_zeros(num, self.num_hidden),
            "second": like.new_zeros(num, self.num_hidden, 2 * moved),
        }

    def forward(self, parameters: Parameters, v: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = v.split([self.num_kept, self.num_dims - self.num_kept], -1)
        log_scale, shift = self._network(parameters, kept)
        return torch.cat([kept, moved * log_scale.exp() + shift], -1).flip(-1), log_scale.sum(-1)

    def inverse(self, parameters: Parameters, u: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = u.flip(-1).split([self.num_kept, self.num_dims - self.num_kept], -1)
        log_scale, shift = self._network(parameters, kept)
        return torch.cat([kept, (moved - shift) * (-log_scale).exp()], -1), log_scale.sum(-1)

    def _network(self, parameters: Parameters, kept: Tensor) -> tuple[Tensor, Tensor]:
        hidden = (torch.einsum("kbi,bih->kbh", kept, parameters["first"]) + parameters["bias"]).tanh()
        log_scale, shift = torch.einsum("kbh,bho->kbo", hidden, parameters["second"]).chunk(2, -1)
        return log_scale.tanh(), shift


class Composition(Transport):
    """Maps by name, applied one after the other, the first one first."""

    def __init__(self, parts: dict[str, Transport]):
        super().__init__(next(iter(parts.values())).num_dims)
        self.parts = parts

    def start(self, like: Tensor) -> Parameters:
        return {f"{part}/{name}": t for part, own in self.parts.items() for name, t in own.start(like).items()}

    def forward(self, parameters: Parameters, v: Tensor) -> tuple[Tensor, Tensor]:
        total = v.new_zeros(v.shape[:2])
        for name, part in self.parts.items():
            v, log_det = part.forward(_own(parameters, name), v)
            total = total + log_det
        return v, total

    def inverse(self, parameters: Parameters, u: Tensor) -> tuple[Tensor, Tensor]:
        total = u.new_zeros(u.shape[:2])
        for name, part in reversed(self.parts.items()):
            u, log_det = part.inverse(_own(parameters, name), u)
            total = total + log_det
        return u, total


def _own(parameters: Parameters, part: str) -> Parameters:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
