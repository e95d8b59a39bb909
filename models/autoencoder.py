"""The plain autoencoder, a baseline without a density, and the denoising autoencoder."""

from collections.abc import Callable

import pyro
from torch import Tensor, nn

from ppvae.arguments import checked
from ppvae.models.parts.likelihood import AnyLikelihood
from ppvae.pair import NumberOrBatch, Pair


class Autoencoder(Pair):
    """`x -> encoder -> code -> likelihood`, trained by `E log p(x | encoder(x))`: no latent variable, no prior.

    With a Gaussian likelihood of fixed sigma that is least squares. Its code is a function of x, so the likelihood is
    not a density of x: evidence, ELBO and gap are undefined, and asking for them raises an error that says so. Nor
    can it be sampled from.

    Args:
        encoder: `[*, *event] -> [*, D]`.
        likelihood: forward(code) returns p(x | code).

    Example:
        >>> import torch
        >>> from ppvae.models import Gaussian
        >>> pair = Autoencoder(nn.Linear(5, 2), Gaussian(nn.Linear(2, 5), sigma=1.0))
        >>> pair.reconstruct(torch.zeros(3, 5)).shape
        torch.Size([3, 5])
    """

    evidence_undefined = (
        "an autoencoder's code is a deterministic function of x: it has no prior and no density; use a VAE for evidence"
    )

    @checked
    def __init__(self, encoder: nn.Module, likelihood: AnyLikelihood):
        super().__init__()
        self.encoder = encoder
        self.likelihood = likelihood

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", self.likelihood(self.encoder(x)), obs=x)

    def guide(self, x: Tensor) -> None:
        """Nothing to infer: the code is computed, not drawn."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Refused: there is no density."""
        raise NotImplementedError(f"{type(self).__name__}.log_prob: {self.evidence_undefined}")

    def sample(self, at: NumberOrBatch) -> Tensor | dict[str, Tensor]:
        """Refused: there is no prior over codes to draw from."""
        raise NotImplementedError(f"{type(self).__name__}.sample: {self.evidence_undefined}")


class DenoisingAutoencoder(Autoencoder):
    """Trained to restore corrupted data, by `E log p(x | encoder(corruption(x)))`; in evaluation mode x stays as it is.

    With Gaussian noise of variance s^2 and least squares, the best it can do is `E[x | x~] = x~ + s^2 grad log p(x~)`,
    with p the density of the noisy x~. A diffusion's denoiser is such an autoencoder for all noise levels at once;
    from it, `DiffusionVAE` builds what this pair lacks, a density of x.

    Source: Vincent et al. 2008; Vincent et al. 2010; Vincent 2011, for the score.

    Args:
        encoder: `[*, *event] -> [*, D]`.
        likelihood: forward(code) returns p(x | code).
        corruption: a random function of x `[B, *event]`, called once for each training batch.

    Example:
        >>> import torch
        >>> from ppvae.models import Gaussian
        >>> def masked(x):
        ...     return x * (torch.rand_like(x) > 0.3)
        >>> pair = DenoisingAutoencoder(nn.Linear(5, 2), Gaussian(nn.Linear(2, 5), sigma=1.0), masked)
        >>> pair.reconstruct(torch.zeros(3, 5)).shape
        torch.Size([3, 5])
    """

    @checked
    def __init__(self, encoder: nn.Module, likelihood: AnyLikelihood, corruption: Callable[[Tensor], Tensor]):
        super().__init__(encoder, likelihood)
        self.corruption = corruption

    def model(self, x: Tensor) -> None:
        seen = self.corruption(x) if self.training else x
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", self.likelihood(self.encoder(seen)), obs=x)
