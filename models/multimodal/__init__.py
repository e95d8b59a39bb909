"""Several modalities of one thing, any of which may be missing: what they share, and guides for any subset of them."""
