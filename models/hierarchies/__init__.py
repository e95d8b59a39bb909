"""Hierarchies of latents, and their guides."""
