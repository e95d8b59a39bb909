"""Flows as pairs, and the maps they are made of."""
