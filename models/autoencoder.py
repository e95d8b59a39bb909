"""The plain autoencoder, the baseline without a density."""

import pyro
from torch import Tensor, nn

from ppvae.models.likelihoods import Likelihood
from ppvae.pair import Pair


class Autoencoder(Pair):
    """`x -> encoder -> code -> likelihood`, trained by `E log p(x | encoder(x))`: no latent variable, no prior.

    With a Gaussian likelihood of fixed sigma that is least squares. Its code is a function of x, so the likelihood is
    not a density of x: evidence, ELBO and gap are undefined, and asking for them is an error that says so. It cannot
    be sampled from either.

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

    def __init__(self, encoder: nn.Module, likelihood: Likelihood):
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

    def sample(self, num: int) -> Tensor | dict[str, Tensor]:
        """Refused: there is no prior over codes to draw from."""
        raise NotImplementedError(f"{type(self).__name__}.sample: {self.evidence_undefined}")
