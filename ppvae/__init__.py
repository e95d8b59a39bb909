"""ppvae: model/guide pairs on Pyro, and the measure of their posterior gap in nats."""

from ppvae._version import __version__
from ppvae.contract import ContractError
from ppvae.pair import Pair
from ppvae.weights import Weights

__all__ = ["ContractError", "Pair", "Weights", "__version__"]
