"""Distributions of one entry after another: masked networks, and the pair, likelihood and prior made of them."""
