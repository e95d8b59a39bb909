"""Sequences in time: Markov chains of latents that are seen through their emissions."""
