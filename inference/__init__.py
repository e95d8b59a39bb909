"""Objectives, training, and measurement of evidence and gap."""

from ppvae.inference.divergence import kl_divergence, separable_sites
from ppvae.inference.objectives import ELBO, IWAE, EnumeratedELBO, LinearWarmup, Objective

__all__ = ["ELBO", "IWAE", "EnumeratedELBO", "LinearWarmup", "Objective", "kl_divergence", "separable_sites"]
