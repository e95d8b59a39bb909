"""Pairs that are trained against an adversary, and the density of what they draw once noise is added."""
