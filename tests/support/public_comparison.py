"""A valid call of each public function that compares samples or latents, with the kind of each argument."""

import torch
from support.malformed_values import (
    Call,
    always,
    choice,
    count,
    data,
    function,
    instance,
    mapping,
    non_negative,
    optional,
    positive,
    real,
    tensor,
    text,
)
from support.public_arguments import COUNT, PAIR, SEED, checked_linear

import ppvae
from ppvae.datasets import Sprites


def modes():
    return ppvae.Modes.near(torch.zeros(1, 3), 1.0)


def points(seed):
    return lambda: torch.randn(20, 3, generator=torch.Generator().manual_seed(seed))


COMPARISON = {
    "BetaTCVAE": Call({"num_particles": COUNT, "beta": non_negative(6.0), "num_data": optional(COUNT)}),
    "DIPVAE": Call(
        {
            "num_particles": COUNT,
            "off_diagonal": non_negative(10.0),
            "diagonal": non_negative(10.0),
            "kind": choice("II"),
        }
    ),
    "Modes": Call({"num": COUNT, "label": function(lambda x: x)}),
    "Modes.floor": Call({"num_samples": count(3)}, owner=modes),
    "Modes.found": Call({"labels": instance(lambda: torch.tensor([0, -1]), "tensor")}, owner=modes),
    "Modes.near": Call({"centers": tensor(points(0), "too many dimensions"), "radius": positive(1.0)}),
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
            "ideal": mapping(optional(real(1.0)), "q", "empty dict"),
            "title": text(),
        },
        fixed={"cells": always({}), "ideal": always({})},
    ),
}
