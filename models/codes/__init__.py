"""Discrete codes: vector quantization, priors over codes, and bits with a Boltzmann machine for a prior."""
