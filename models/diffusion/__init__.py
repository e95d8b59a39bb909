"""Denoising diffusion as a pair."""
