"""M1+M2: a VAE whose prior is an M2 of its latents."""

from typing import cast

import pyro
import torch
from torch import BoolTensor, Tensor

from ppvae.arguments import Count, Observed, checked
from ppvae.mode import mode
from ppvae.models.labels.m2 import M2
from ppvae.models.vae import VAE
from ppvae.pair import Pair
from ppvae.refusals import refuse_shape


class M1M2(Pair):
    """`p(y) p(z2) p(z1 | y, z2) p(x | z1)` with the guide `q(z1 | x) q(y | z1) q(z2 | y, z1)`.

    An M2 takes the place of a VAE's prior. In the source the VAE is trained first, then the M2 of its latents:
    `ppvae.fit(vae, x)`, then `vae.requires_grad_(False)`, and `ppvae.fit(M1M2(vae, m2), ...)`. Its gradient is that of
    `ppvae.fit(m2, ...)` on draws of z1 in place of x, which costs less. Both can be trained at once, too. Takes what
    `M2` takes, and what is said of its labels and objectives holds here.

    Source: Kingma et al. 2014 (arXiv:1406.5298).

    Args:
        vae: p(x | z1) and q(z1 | x); its prior is not used.
        m2: of z1 in place of x: its likelihood must be one of real numbers.

    Example:
        >>> m2 = M2.mlp(num_features=3, num_latents=2, num_classes=4, likelihood="heteroscedastic")
        >>> pair = M1M2(VAE.mlp(num_features=5, num_latents=3), m2)
        >>> x, y, known = torch.ones(4, 5), torch.tensor([0, 1, 2, 0]), torch.tensor([True, True, True, False])
        >>> pair.log_weights((x, y, known), num_particles=10).log_w.shape
        torch.Size([10, 4])
        >>> pair.classify(x).shape
        torch.Size([4, 4])
    """

    @checked
    def __init__(self, vae: VAE, m2: M2):
        super().__init__()
        self.vae = vae
        self.m2 = m2
        self.example = (vae.example, torch.zeros(1, dtype=torch.long), torch.tensor([True]))

    def model(self, x: Tensor, y: Tensor, known: Tensor) -> None:
        m2 = self.m2
        with pyro.plate("data", x.shape[0], dim=-1):
            label = pyro.sample("y", m2.label_prior(), obs=y, obs_mask=cast(BoolTensor, known.bool()))
            z2 = pyro.sample("z2", m2.prior())
            z1 = pyro.sample("z1", m2.given_label(m2.likelihood, z2, label))
            pyro.sample("x", self.vae.likelihood(z1), obs=x)

    def guide(self, x: Tensor, y: Tensor, known: Tensor) -> None:
        m2, known = self.m2, known.bool()
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", self.vae.posterior(x))
            label = torch.where(known, y, pyro.sample("y_unobserved", m2.classifier(z1).mask(~known)))
            pyro.sample("z2", m2.given_label(m2.posterior, z1, label))

    @checked
    @torch.no_grad()
    def classify(self, x: Observed, num_samples: Count = 100) -> Tensor:
        """`E_q(z1 | x) q(y | z1)`, the probabilities of the labels of x `[B, F]`, over draws of z1: `[B, C]`."""
        refuse_shape(x, cast(tuple, self.example)[0].shape[1:])
        with mode(self, training=False):
            return self.m2.classifier(self.vae.posterior(x).sample((num_samples,))).probs.mean(0)
