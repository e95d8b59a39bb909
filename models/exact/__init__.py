"""Pairs of which everything is known in closed form."""
