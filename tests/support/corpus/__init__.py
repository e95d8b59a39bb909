"""A corpus of pairs in the idioms of Pyro's examples and tutorials, and plain Pyro as the oracle of what they mean."""

from support.corpus import (
    arguments,
    auto_guides,
    autoencoders,
    by_rows,
    counts,
    entangled_rows,
    global_latents,
    local_parameters,
    mixing,
    mixtures,
    semi_supervised,
    sequences,
    topics,
)
from support.corpus.entry import CORPUS, Entry, Program

__all__ = [
    "CORPUS",
    "Entry",
    "Program",
    "arguments",
    "auto_guides",
    "autoencoders",
    "by_rows",
    "counts",
    "entangled_rows",
    "global_latents",
    "local_parameters",
    "mixing",
    "mixtures",
    "semi_supervised",
    "sequences",
    "topics",
]
