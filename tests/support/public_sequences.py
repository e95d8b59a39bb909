"""A valid call of each pair of sequences with actions, and of the environment, with the kind of each argument."""

import numpy as np
import torch
from support.malformed_values import Call, choice, count, from_zero, instance, optional, positive, sizes, tensor

from ppvae.datasets import PixelPendulum
from ppvae.models import MixtureDensityRNN

COUNT = count(2)

SEQUENCES = {
    "RecurrentStateSpace": Call(
        {
            "num_features": COUNT,
            "num_latents": COUNT,
            "num_actions": from_zero(1),
            "num_classes": optional(count(3)),
            "num_state": COUNT,
            "hidden": sizes(3, 3).besides("empty list"),
            "likelihood": choice("gaussian"),
            "levels": count(5),
        }
    ),
    "MixtureDensityRNN": Call(
        {"num_features": COUNT, "num_actions": from_zero(1), "num_components": COUNT, "num_state": COUNT}
    ),
    "MixtureDensityRNN.forecast": Call(
        {"h": tensor(lambda: torch.zeros(4, 2), "inf", "too many dimensions"), "temperature": positive(0.5)},
        owner=lambda: MixtureDensityRNN(2, num_state=2),
    ),
}

ENVIRONMENTS = {
    "datasets.PixelPendulum": Call({"num_envs": COUNT, "num_steps": COUNT, "width": COUNT}),
    "datasets.PixelPendulum.reset": Call(
        {"seed": optional(from_zero(1)), "options": optional(instance(dict, "empty dict"))}, PixelPendulum
    ),
    "datasets.PixelPendulum.step": Call({"actions": instance(lambda: np.zeros((1, 1)))}, PixelPendulum),
}
