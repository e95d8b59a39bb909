"""A valid call of each public model of codes, or of one entry after another, with the kind of each argument."""

from dataclasses import replace

import torch
from support.malformed_values import (
    Call,
    count,
    data,
    fraction,
    from_zero,
    instance,
    optional,
    positive,
    sequence,
    sizes,
    tensor,
)
from support.public_arguments import images
from support.public_models import (
    ACTIVATION,
    COUNT,
    EVEN,
    HIDDEN,
    IMAGE,
    LEVELS,
    LIKELIHOOD,
    NETWORK,
    NO,
    layer,
    square_images,
)
from torch import nn

from ppvae.models import (
    MADE,
    VQVAE,
    VQVAE2,
    Codebook,
    CodeLevel,
    PixelCNN,
    RestrictedBoltzmann,
    UniformCodes,
)
from ppvae.models.autoregressive.autoregressive_likelihood import AutoregressiveLikelihood
from ppvae.models.autoregressive.autoregressive_pair import AutoregressivePair
from ppvae.models.autoregressive.autoregressive_prior import AutoregressivePrior
from ppvae.models.parts.likelihoods import Bernoulli


def quantized():
    torch.manual_seed(0)
    return VQVAE.mlp(4, 2, 3, 2, [5])


def two_levels():
    torch.manual_seed(0)
    return VQVAE2.convolutional((1, 4, 4), 3, 2, 2, 1)


def level(num_positions):
    return CodeLevel([num_positions], layer(2), Codebook(3, 2), UniformCodes([num_positions], 3))


def pixels():
    torch.manual_seed(0)
    return PixelCNN((1, 4, 4), 2, 4, 1, 1)


def masked(num_condition=0):
    torch.manual_seed(0)
    return MADE(4, 2, [5], num_condition=num_condition)


def code_vectors():
    return torch.linspace(-1, 1, 48).reshape(12, 2, 2)


DISCRETE = {
    "Autoregressive": Call(
        {"network": instance(lambda: masked(2)), "h": tensor(lambda: torch.zeros(3, 2), "nan", "too many dimensions")}
    ),
    "AutoregressiveFlowPrior": Call({"num_latents": COUNT, "hidden": sizes(5), "num_condition": from_zero(2)}),
    "AutoregressiveLikelihood": Call({"decoder": NETWORK, "network": instance(lambda: masked(2))}),
    "AutoregressiveLikelihood.init_from": Call(
        {"x": data(images, "one dimension more")}, owner=lambda: AutoregressiveLikelihood(layer(2, 2), masked(2))
    ),
    "AutoregressivePair": Call({"network": instance(masked)}),
    "AutoregressivePair.init_from": Call(
        {"x": data(images, "one dimension more")}, owner=lambda: AutoregressivePair(masked())
    ),
    "AutoregressivePair.log_prob": Call(
        {"x": data(images, "one dimension more", "inf")}, owner=lambda: AutoregressivePair(masked())
    ),
    "AutoregressivePrior": Call({"network": instance(masked)}),
    "AutoregressivePrior.init_from": Call(
        {"c": data(images, "one dimension more")}, owner=lambda: AutoregressivePrior(masked())
    ),
    "GatedPixelCNN": Call(
        {
            "shape": IMAGE,
            "levels": LEVELS,
            "width": EVEN,
            "num_layers": COUNT,
            "radius": from_zero(2),
            "layer_radius": from_zero(1),
            "num_condition": from_zero(2),
        }
    ),
    "MADE": Call(
        {
            "num_features": count(2),
            "levels": LEVELS,
            "hidden": sizes(5, 5),
            "order": optional(replace(sequence(from_zero(0)), valid=lambda: [1, 0])),
            "num_condition": from_zero(2),
        }
    ),
    **{
        name: Call(
            {
                "shape": IMAGE,
                "levels": LEVELS,
                "width": EVEN,
                "num_layers": COUNT,
                "radius": from_zero(2),
                "num_condition": from_zero(2),
            }
        )
        for name in ("DiagonalBiLSTM", "RowLSTM")
    },
    "PixelSNAIL": Call(
        {
            "shape": IMAGE,
            "levels": LEVELS,
            "width": EVEN,
            "num_blocks": from_zero(1),
            "num_heads": COUNT,
            "radius": from_zero(2),
            "block_radius": from_zero(1),
            "num_condition": from_zero(2),
        }
    ),
    "MaskedNetwork.init_from": Call({"x": data(square_images, "one dimension more")}, owner=pixels),
    "PixelCNN": Call(
        {
            "shape": IMAGE,
            "levels": LEVELS,
            "width": EVEN,
            "num_blocks": from_zero(1),
            "radius": from_zero(2),
            "block_radius": from_zero(1),
            "num_condition": from_zero(2),
        }
    ),
    "VQVAE": Call(
        {
            "encoder": NETWORK,
            "codebook": instance(lambda: Codebook(3, 2)),
            "likelihood": instance(lambda: Bernoulli(nn.Sequential(nn.Flatten(-2), layer(4)))),
            "prior": instance(lambda: UniformCodes([2], 3)),
        }
    ),
    "CodeLevel": Call(
        {
            "shape": sizes(2),
            "encoder": NETWORK,
            "codebook": instance(lambda: Codebook(3, 2)),
            "prior": instance(lambda: UniformCodes([2], 3)),
        }
    ),
    "VQVAE2": Call(
        {
            "encoder": NETWORK,
            "top": instance(lambda: level(1)),
            "bottom": instance(lambda: level(2)),
            "likelihood": instance(lambda: Bernoulli(nn.Sequential(nn.Flatten(-2), layer(8)))),
        }
    ),
    "VQVAE2.convolutional": Call(
        {
            "shape": IMAGE,
            "num_codes": COUNT,
            "code_dim": COUNT,
            "channels": COUNT,
            "num_halvings": COUNT,
            "likelihood": LIKELIHOOD,
            "decay": optional(fraction(0.5)),
            "levels": LEVELS,
        }
    ),
    **{
        f"VQVAE2.{name}": Call({"x": data(square_images, "one dimension more")}, owner=two_levels)
        for name in ("codes", "init_from", "usage")
    },
    "VQVAE2.restart_dead_codes": Call(
        {"x": data(square_images, "one dimension more"), "least": COUNT}, owner=two_levels
    ),
    "VQVAE2.pixel_priors": Call({"width": EVEN, "num_layers": COUNT}, owner=two_levels),
    "VQVAE2.second_stage": Call(
        {
            "top_prior": instance(lambda: UniformCodes([1, 1], 3)),
            "bottom_prior": instance(lambda: UniformCodes([2, 2], 3)),
        },
        owner=two_levels,
    ),
    "VQVAE.mlp": Call(
        {
            "num_features": EVEN,
            "num_positions": COUNT,
            "num_codes": COUNT,
            "code_dim": COUNT,
            "hidden": HIDDEN,
            "likelihood": LIKELIHOOD,
            "decay": optional(fraction(0.5)),
            "activation": ACTIVATION,
            "levels": LEVELS,
        }
    ),
    **{
        f"VQVAE.{name}": Call({"x": data(images, "one dimension more")}, owner=quantized)
        for name in ("codes", "init_from", "usage")
    },
    "VQVAE.restart_dead_codes": Call({"x": data(images, "one dimension more"), "least": COUNT}, owner=quantized),
    "VQVAE.second_stage": Call({"prior": instance(lambda: UniformCodes([2], 3))}, owner=quantized),
    "CodedPair.tempered": Call({"temperatures": sequence(positive(0.5), 1, "empty list")}, owner=quantized),
    "Codebook": Call(
        {
            "num_codes": COUNT,
            "code_dim": COUNT,
            "num_codebooks": COUNT,
            "decay": optional(fraction(0.5)),
            "cosine": NO,
        }
    ),
    "Codebook.init_from": Call({"h": data(code_vectors, "one dimension more")}, owner=lambda: Codebook(3, 2)),
    **{
        name: Call({"shape": sizes(2), "num_codes": COUNT})
        for name in ("FactorizedCodes", "LinearCodes", "UniformCodes")
    },
    "IndependentBits": Call({"network": NETWORK}),
    "SmoothedBits": Call({"network": NETWORK, "beta": positive(4.0)}),
    "SmoothedBoltzmann": Call({"machine": instance(lambda: RestrictedBoltzmann(3, 2)), "beta": positive(4.0)}),
    "SpikedBits": Call({"network": NETWORK, "beta": positive(4.0)}),
    "SpikedBoltzmann": Call({"machine": instance(lambda: RestrictedBoltzmann(3, 2)), "beta": positive(4.0)}),
    "RestrictedBoltzmann": Call({"num_left": COUNT, "num_right": COUNT}),
}
