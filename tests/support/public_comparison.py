"""A valid call of each public function that compares samples or latents, with the kind of each argument."""

import torch
from support.malformed_values import (
    Call,
    always,
    choice,
    count,
    data,
    flag,
    function,
    instance,
    mapping,
    module_class,
    non_negative,
    optional,
    positive,
    real,
    sizes,
    tensor,
    text,
)
from support.public_arguments import COUNT, PAIR, SEED, checked_linear
from torch import nn

import ppvae
from ppvae.datasets import Sprites


def modes():
    return ppvae.Modes.near(torch.zeros(1, 3), 1.0)


def gan():
    torch.manual_seed(0)
    return ppvae.models.GAN(nn.Linear(2, 3), nn.Linear(3, 1), 2)


def vae():
    torch.manual_seed(0)
    return ppvae.models.VAE.mlp(3, 2, [4], "gaussian")


def groups():
    return ppvae.ParameterGroups({"critic": 2.0})


def points(seed):
    return lambda: torch.randn(20, 3, generator=torch.Generator().manual_seed(seed))


COMPARISON = {
    "AdversarialLoss": Call(
        {"num_particles": COUNT, "kind": choice("wasserstein"), "penalty": non_negative(10.0)},
    ),
    "BetaTCVAE": Call({"num_particles": COUNT, "beta": non_negative(6.0), "num_data": optional(COUNT)}),
    "DIPVAE": Call(
        {
            "num_particles": COUNT,
            "off_diagonal": non_negative(10.0),
            "diagonal": non_negative(10.0),
            "kind": choice("II").besides("capitals"),
        }
    ),
    "FactorVAE": Call({"num_particles": COUNT, "gamma": non_negative(10.0)}),
    "FeatureELBO": Call(
        {
            "num_particles": COUNT,
            "kl": choice("auto"),
            "beta": non_negative(1.0),
            "free_bits": non_negative(0.0),
            "balance": flag(False),
            "gradient": choice("reparameterized"),
            "weight": non_negative(1.0),
        }
    ),
    "Modes": Call({"num": COUNT, "label": function(lambda x: x)}),
    "Modes.floor": Call({"num_samples": count(3)}, owner=modes),
    "Modes.found": Call({"labels": instance(lambda: torch.tensor([0, -1]), "tensor")}, owner=modes),
    "Modes.near": Call({"centers": tensor(points(0), "too many dimensions"), "radius": positive(1.0)}),
    "Modes.stacked": Call({"classify": function(lambda x: x), "num_classes": COUNT, "num_channels": COUNT}),
    "ParameterGroups": Call(
        {"factors": mapping(non_negative(2.0), "critic", "empty dict"), "optimizer": choice("adam")},
    ),
    "ParameterGroups.of": Call(
        {"lr": non_negative(1e-3)},
        groups,
        {"named": lambda: dict(gan().named_parameters())},
    ),
    "models.GAN": Call(
        {
            "generator": instance(lambda: nn.Linear(2, 3)),
            "critic": instance(lambda: nn.Linear(3, 1)),
            "num_latents": COUNT.besides("huge"),
        }
    ),
    "models.GAN.mlp": Call(
        {
            "num_features": count(3),
            "num_latents": COUNT,
            "hidden": sizes(4).besides("empty list"),
            "spectral": flag(False),
            "activation": module_class(),
        }
    ),
    "models.GAN.check": Call({"batch": data(points(0))}, gan),
    "models.GAN.check_once": Call({"batch": data(points(0))}, gan),
    "models.LatentCritic": Call({"pair": instance(vae), "latent_critic": instance(lambda: nn.Linear(2, 1))}),
    "models.VAEGAN": Call(
        {
            "vae": instance(vae),
            "features": instance(lambda: nn.Linear(3, 4)),
            "head": instance(lambda: nn.Linear(4, 1)),
        }
    ),
    "models.NoisyGenerator": Call({"gan": instance(gan), "sigma": positive(0.1)}),
    "models.SpectralLinear": Call({}, fixed={"in_features": always(3), "out_features": always(2)}),
    "compare_samples": Call(
        {
            "sources": mapping(PAIR, "a", "empty dict", "{tensor}"),
            "held_out": tensor(points(0)),
            "train": optional(tensor(points(1))),
            "features": function(lambda x: x, "None"),
            "modes": optional(instance(modes)),
            "num_samples": optional(count(20)),
            "nearest": count(2),
            "num_halves": count(2),
            "seed": optional(SEED),
        },
        fixed={"sources": lambda: {"a": checked_linear()}},
    ),
    "kl_split": Call(
        {
            "pair": PAIR,
            "data": data(points(0)),
            "over": choice("law"),
            "num_samples": COUNT,
            "seed": optional(SEED),
        }
    ),
    "compare_latents": Call(
        {
            "sources": mapping(function(lambda x: x[:, :3]), "a", "empty dict"),
            "sprites": instance(Sprites.small),
            "num_points": count(100),
            "num_sets": count(2),
            "seed": optional(SEED),
        }
    ),
    "datasets.Sprites": Call(
        {"forms": count(3), "sizes": count(3), "angles": count(8), "places": count(8), "width": count(16)}
    ),
    "datasets.Sprites.draw": Call({"factors": instance(lambda: torch.zeros(2, 5).long())}, Sprites.small),
    "datasets.Sprites.sample": Call({"num": COUNT, "generator": instance(torch.Generator, "None")}, Sprites.small),
    "inference.Cell": Call({"estimate": real(0.0).besides("nan", "inf", "-inf"), "undefined": text()}),
    "inference.Table": Call(
        {
            "cells": mapping(mapping(instance(ppvae.inference.Cell), "q", "empty dict"), "a", "empty dict"),
            "ideal": mapping(optional(real(1.0)), "q", "empty dict", "{nan}", "{inf}", "{-inf}"),
            "title": text(),
        },
        fixed={"cells": always({}), "ideal": always({})},
    ),
}
