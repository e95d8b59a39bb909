"""Densities with scikit-learn's face: `fit`, `score_samples`, `sample`, `transform`, in pipelines and grid searches."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ppvae.arguments import Count, checked
from ppvae.inference.evidence.estimates import log_evidence
from ppvae.inference.objectives.evidence_lower_bound import ELBO
from ppvae.inference.training.em import fit_em
from ppvae.inference.training.fitting import fit
from ppvae.models.exact.gaussian_mixture import GaussianMixture
from ppvae.models.parts.posteriors import POSTERIOR_FAMILIES
from ppvae.models.vae import VAE
from ppvae.pair import Pair
from ppvae.sources import as_tensor
from ppvae.threads import turn

__all__ = ["MixtureDensity", "VAEDensity"]

MOST_SEED = 2**31 - 1


class _Density(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator):
    """What densities share: a trained pair in double precision, and draws that leave torch's generator as it was."""

    pair_: Any

    def fit(self, X: Any, y: Any = None) -> "_Density":
        """Trains on data points.

        Args:
            X: `[N, D]`, N at least 2.
            y: not used.

        Raises:
            ValueError: data that are not finite, or a bad setting, by its name.
        """
        x = as_tensor("X", validate_data(self, X, dtype=np.float64, ensure_min_samples=2))
        self._seed = check_random_state(self.random_state).randint(MOST_SEED)
        with self._own_draws("fit", self._seed):
            self.pair_ = self._trained(x)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) of each data point, `[N]`, in nats."""
        x = self._checked(X)
        return self._log_prob(x).numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples`: what a grid search maximizes."""
        return float(self.score_samples(X).mean())

    @checked
    def sample(self, n_samples: Count = 1, random_state: Any = None) -> np.ndarray:
        """New data points, `[n_samples, D]`."""
        check_is_fitted(self)
        with self._own_draws("sample", check_random_state(random_state).randint(MOST_SEED)):
            return self.pair_.sample(n_samples).numpy()

    def transform(self, X: Any) -> np.ndarray:
        """The posterior of each data point's latents, `[N, number of latents]`; the same at each call."""
        x = self._checked(X)
        with self._own_draws("transform", self._seed):
            return self._encoded(x).numpy()

    @contextmanager
    def _own_draws(self, method: str, seed: int) -> Iterator[None]:
        with turn(f"{type(self).__name__}.{method}"), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield

    def _checked(self, X: Any) -> torch.Tensor:
        check_is_fitted(self)
        return as_tensor("X", validate_data(self, X, dtype=np.float64, reset=False))

    def _trained(self, x: torch.Tensor) -> Pair:
        raise NotImplementedError

    def _log_prob(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _encoded(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class VAEDensity(_Density):
    """A variational autoencoder of multilayer perceptrons as a density: `ppvae.models.VAE.mlp`, trained by the ELBO.

    `score_samples` is importance-weighted: a stochastic lower bound on log p(x), with the same draws at each call on
    the same data. It can only disadvantage a model, so a grid search over it favors good guides too; `ppvae.gap` on
    `pair_` says by how much. Data are taken as they are: put a `StandardScaler` before it, in a pipeline.

    Source: Kingma & Welling 2014 (arXiv:1312.6114); Burda et al. 2016 (arXiv:1509.00519).

    Args:
        num_latents: size of z.
        hidden: sizes of the encoder's hidden layers; the decoder's are the same, reversed.
        likelihood, posterior, prior, levels: as in `VAE.mlp`.
        epochs, batch_size, lr: as in `ppvae.fit`.
        num_particles: of the importance weights.
        random_state: of the network's start, of training and of `score_samples`.

    Attributes:
        pair_: the trained pair, for `ppvae.gap` and all else.
        n_features_in_: D.

    Raises:
        ValueError: in `fit`, a bad setting, by its name.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> x = load_iris().data
        >>> model = make_pipeline(StandardScaler(), VAEDensity(epochs=2, random_state=0)).fit(x)
        >>> model.score_samples(x).shape, model.transform(x).shape
        ((150,), (150, 2))
    """

    def __init__(
        self,
        num_latents: int = 2,
        hidden: Sequence[int] = (64,),
        likelihood: str = "gaussian",
        posterior: str = "diagonal",
        prior: str = "normal",
        levels: int = 256,
        epochs: int = 100,
        batch_size: int = 128,
        lr: float = 1e-3,
        num_particles: int = 100,
        random_state: Any = None,
    ):
        self.num_latents = num_latents
        self.hidden = hidden
        self.likelihood = likelihood
        self.posterior = posterior
        self.prior = prior
        self.levels = levels
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.num_particles = num_particles
        self.random_state = random_state

    @property
    def _n_features_out(self) -> int:
        return self.num_latents

    def _trained(self, x: torch.Tensor) -> Pair:
        pair = VAE.mlp(
            x.shape[1],
            self.num_latents,
            self.hidden,
            self.likelihood,
            self.posterior,
            levels=self.levels,
            prior=self.prior,
        )
        pair.double().init_from(x)
        objective = ELBO(num_particles=POSTERIOR_FAMILIES[self.posterior].num_particles)
        given = {"epochs": self.epochs, "batch_size": self.batch_size, "lr": self.lr, "seed": self._seed}
        fit(pair, x, objective, **given, progress=False)
        return pair

    def _log_prob(self, x: torch.Tensor) -> torch.Tensor:
        found = log_evidence(self.pair_, x, "iwae", self.num_particles, seed=self._seed, progress=False)
        return found.estimate

    def _encoded(self, x: torch.Tensor) -> torch.Tensor:
        return self.pair_.encode(x).mean


class MixtureDensity(_Density):
    """A Gaussian mixture as a density: `ppvae.models.GaussianMixture`, trained by EM.

    `score_samples` is exact, and `transform` gives the probabilities of the components.

    Source: Dempster, Laird & Rubin 1977.

    Args:
        num_components: C.
        covariance: "full", "diagonal", "spherical" or "tied".
        restarts, max_iterations, tolerance, covariance_floor: as in `ppvae.fit_em`.
        random_state: of the starts.

    Attributes:
        pair_: the trained mixture.
        n_features_in_: D.

    Raises:
        ValueError: in `fit`, a bad setting, by its name.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.model_selection import GridSearchCV, KFold
        >>> folds = KFold(3, shuffle=True, random_state=0)
        >>> search = GridSearchCV(MixtureDensity(random_state=0), {"num_components": [1, 2]}, cv=folds)
        >>> search.fit(load_iris().data).best_params_
        {'num_components': 2}
    """

    def __init__(
        self,
        num_components: int = 1,
        covariance: Literal["full", "diagonal", "spherical", "tied"] = "full",
        restarts: int = 1,
        max_iterations: int = 100,
        tolerance: float = 1e-6,
        covariance_floor: float = 1e-6,
        random_state: Any = None,
    ):
        self.num_components = num_components
        self.covariance = covariance
        self.restarts = restarts
        self.max_iterations = max_iterations
        self.tolerance = tolerance
        self.covariance_floor = covariance_floor
        self.random_state = random_state

    @property
    def _n_features_out(self) -> int:
        return self.num_components

    def _trained(self, x: torch.Tensor) -> Pair:
        mixture = GaussianMixture(self.num_components, x.shape[1], self.covariance).double()
        fit_em(
            mixture,
            x,
            restarts=self.restarts,
            max_iterations=self.max_iterations,
            tolerance=self.tolerance,
            covariance_floor=self.covariance_floor,
            seed=self._seed,
        )
        return mixture

    def _log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return self.pair_.log_prob(x).detach()

    def _encoded(self, x: torch.Tensor) -> torch.Tensor:
        return self.pair_.responsibilities(x).detach()
