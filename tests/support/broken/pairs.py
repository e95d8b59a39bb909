"""All pairs that are broken on purpose, by name."""

from support.broken.linear import LINEAR
from support.broken.networks import NETWORKS
from support.broken.shapes import SHAPES

BROKEN = LINEAR | SHAPES | NETWORKS
