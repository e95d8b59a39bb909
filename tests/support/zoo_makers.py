"""What makes the zoo's pairs, and a batch for each."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from support.pyro_tutorials import DMM, TutorialVAE, sequences
from support.zoo_pairs import Labeled, Positive
from torch import nn

from ppvae import Pair
from ppvae.models import (
    M1M2,
    M2,
    VAE,
    VAEGAN,
    AutoregressiveFlowPrior,
    AutoregressiveLikelihood,
    AutoregressivePair,
    Bernoulli,
    ConditionallyIndependent,
    ConvolutionalHVAE,
    Dequantized,
    DiagonalNormal,
    DiffusionVAE,
    GatedPixelCNN,
    Gaussian,
    IndependentBits,
    MarkovHVAE,
    MultimodalVAE,
    PixelCNN,
    ProductOfExperts,
    RealNVP,
    RestrictedBoltzmann,
    SensorFusion,
    SmoothedBits,
    SmoothedBoltzmann,
    SpikedBits,
    SpikedBoltzmann,
    StandardNormal,
    TableVAE,
    UNet,
)


def on_normal(make, *shape):
    """A member's `make`: a pair from `make()` with standard normal data, eight points."""
    return lambda: (make(), torch.randn(8, *shape))


def on_bits(make, *shape):
    return lambda: (make(), torch.rand(8, *shape).round())


def hierarchy(posterior="independent"):
    return on_normal(lambda: MarkovHVAE.mlp(4, [2, 2], [4], "gaussian", posterior), 4)


def bidirectional():
    return ConvolutionalHVAE((1, 4, 4), [1, 1], 1, channels=1, num_cells=1, num_bottom_up=1)


def on_levels(make, levels, *shape):
    return lambda: (make(), torch.randint(levels, (8, *shape)) / (levels - 1))


def dequantized(posterior):
    """Images of two pixels with four gray levels."""
    pair = Dequantized(RealNVP(2, 2, [4]), levels=4, posterior=posterior)
    return pair, torch.randint(0, 4, (8, 2)).to(torch.get_default_dtype()) / 3


def functions():
    """Pyro's functions as they are: parameters by `pyro.module` and `pyro.param`."""
    decoder = nn.Linear(2, 3)

    def model(x):
        pyro.module("decoder", decoder)
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x):
        slope = pyro.param("slope", lambda: 0.1 * torch.ones(3, 2))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x @ slope, 0.8).to_event(1))

    x = torch.randn(8, 3)
    return Pair.of(model, guide, example=x), x


def tutorial():
    vae, x = TutorialVAE(), torch.rand(8, 4, 4).round()
    return Pair.of(vae.model, vae.guide, example=x), x


def deep_markov():
    dmm, x = DMM(), sequences()
    dmm.annealing_factor = 1.0  # another one is refused by all bounds but the ELBO
    return Pair.of(dmm.model, dmm.guide, example=x), x


def of_lengths(make, *shape):
    """A member's `make`: a pair from `make()` with eight standard normal sequences of several lengths."""
    return lambda: (make(), (torch.randn(8, *shape), 1 + torch.arange(8) % shape[0]))


def with_actions(make, *shape):
    """A member's `make`: such sequences, with two numbers as the action of each step."""
    num, size = shape
    return lambda: (make(), (torch.randn(8, num, size), 1 + torch.arange(8) % num, torch.randn(8, num, 2)))


def of_modalities(make, *sizes):
    """A member's `make`: a pair from `make()` with eight standard normal points, of which either modality, or both."""
    has = torch.tensor([[True, False], [False, True], [True, True], [True, True]] * 2)
    return lambda: (make(), {name: torch.randn(8, n) for name, n in zip("ab", sizes, strict=True)} | {"has": has})


def image_and_label():
    pair = MultimodalVAE.mlp({"image": 4, "label": 3}, 2, [5], {"label": "label"}, "joint", {"image": 1})
    has = torch.tensor([[True, False], [False, True], [True, True], [True, True]] * 2)
    return pair, {"image": torch.rand(8, 4).round(), "label": torch.arange(8) % 3, "has": has}


def sensors_and_targets():
    posterior = ProductOfExperts({"a": DiagonalNormal(nn.Linear(4, 4))})
    targets = {"y": Bernoulli(nn.Linear(3, 1))}
    pair = SensorFusion(2, 1, {"a": Gaussian(nn.Linear(2, 4))}, targets, posterior)
    has = torch.tensor([[True, False], [False, True], [True, True], [True, True]] * 2)
    return pair, {"a": torch.randn(8, 4), "y": torch.rand(8, 1).round(), "action": torch.randn(8, 1), "has": has}


def labeled():
    return Labeled(), {"x": torch.randn(8, 3), "label": torch.arange(8) % 2}


def partly_labeled(make):
    """A member's `make`: a pair from `make()` with eight standard normal vectors, half of them with labels."""
    return lambda: (make(), (torch.randn(8, 3), torch.arange(8) % 3, torch.arange(8) < 4))


def stacked():
    return M1M2(VAE.mlp(3, 2, [4], "gaussian"), M2.mlp(2, 1, 3, [4], "gaussian"))


def table():
    """Four kinds of columns; the third value of each row is missing in every second one."""
    columns = {"real": "real", "count": "count", "binary": "binary", "ordinal": [0, 1, 2]}
    row = torch.arange(8)
    x = torch.stack([torch.randn(8), row % 4, row % 2, row % 3], -1).to(torch.get_default_dtype())
    return TableVAE.mlp(columns, 2, [5]), (x, (row.unsqueeze(-1) % 2 == 0) | (torch.arange(4) != 2))


def positive():
    return Positive(), 0.2 + torch.rand(8)


def pixel_vae():
    """Bits whose PixelCNN is told what the decoder makes of z."""
    decoder = nn.Sequential(nn.Linear(2, 8), nn.Unflatten(-1, (2, 2, 2)))
    network = PixelCNN((1, 2, 2), 2, 4, 1, 1, num_condition=2)
    encoder = nn.Sequential(nn.Flatten(-3), nn.Linear(4, 4))
    return VAE(StandardNormal(2), AutoregressiveLikelihood(decoder, network), DiagonalNormal(encoder))


def lossy():
    """A PixelVAE whose prior is autoregressive too."""
    pair = pixel_vae()
    pair.prior = AutoregressiveFlowPrior(2, [4])
    return pair


def hierarchical_pixel_vae():
    """Autoregressive p(z1 | z2) and p(x | z1)."""
    encoders = [DiagonalNormal(nn.Sequential(nn.Flatten(-3), nn.Linear(4, 2 * size))) for size in (2, 1)]
    transition = AutoregressiveFlowPrior(2, [4], num_condition=1)
    posterior = ConditionallyIndependent(encoders)
    return MarkovHVAE(StandardNormal(1), [transition], pixel_vae().likelihood, posterior)


def of_codes():
    """Maps of three codes."""
    return AutoregressivePair(GatedPixelCNN((2, 2), 3, 4, 1, 1)), torch.randint(3, (8, 2, 2))


def boltzmann():
    return VAE(RestrictedBoltzmann(2, 1), Bernoulli(nn.Linear(3, 4)), IndependentBits(nn.Linear(4, 3)))


def smoothed():
    prior, posterior = SmoothedBoltzmann(RestrictedBoltzmann(2, 1), 3.0), SmoothedBits(nn.Linear(4, 3), 3.0)
    return VAE(prior, Bernoulli(nn.Linear(3, 4)), posterior)


def vae_gan():
    return VAEGAN(VAE.mlp(4, 2, [5], "gaussian"), nn.Sequential(nn.Linear(4, 5), nn.Tanh()), nn.Linear(5, 1))


def spiked():
    prior, posterior = SpikedBoltzmann(RestrictedBoltzmann(2, 1), 3.0), SpikedBits(nn.Linear(4, 3), 3.0)
    return VAE(prior, Bernoulli(nn.Linear(3, 4)), posterior)


def bit_diffusion():
    return DiffusionVAE(UNet((1, 2, 2), [2], 4), [1, 2, 2], 2, "bernoulli", "learned", "eps", "posterior")
