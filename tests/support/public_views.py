"""A valid call of each public function for two sides, data, networks and pictures, with the kind of each argument."""

import math

import numpy as np
import torch
from support.malformed_values import (
    Call,
    always,
    choice,
    count,
    data,
    from_zero,
    function,
    instance,
    mapping,
    module_class,
    non_negative,
    optional,
    path,
    real,
    sequence,
    sizes,
    tensor,
    text,
)
from support.public_arguments import (
    AIS,
    ANY_TENSOR,
    AXES,
    COUNT,
    DATA,
    EVIDENCE,
    HIDDEN,
    IMAGES,
    MAYBE_SEED,
    MEASUREMENT,
    MIXTURE,
    NO,
    PAIR,
    SEED,
    SHAPE,
    axes,
    coverage,
    curve,
    folder,
    image_pair,
    images,
    layered_pair,
    plane,
    points,
    ranks,
    report,
    sandwich,
    statistics,
)
from torch import nn

import ppvae

VIEWS = {
    "GapReport.to_html": Call(
        {
            "path": path(lambda: folder() / "new.html"),
            "data": optional(DATA.besides("nan", "inf", "one dimension more", "wrong keys", "two")),
            "shape": optional(sizes(1, 3)),
            "gradients": optional(instance(statistics)),
        },
        owner=report,
    ),
    "TwoSides": Call(
        {
            "lower": EVIDENCE,
            **{name: MEASUREMENT for name in ("upper", "width", "shift")},
            **{name: ANY_TENSOR for name in ("r_hat", "ess", "reliable")},
            "simulated": instance(sandwich),
        }
    ),
    "two_sides": Call(
        {"pair": PAIR, "data": DATA, "annealing": optional(AIS), "seed": MAYBE_SEED, "progress": NO},
        fixed={"annealing": lambda: ppvae.AIS(6, 2)},
    ),
    "inference.BoundCurve": Call(
        {
            "num_particles": sequence(COUNT, 2, "empty list"),
            "bounds": sequence(MEASUREMENT, 2, "empty list"),
            "limit": MEASUREMENT,
            "khat": ANY_TENSOR,
        }
    ),
    "inference.EMResult": Call({"num_iterations": from_zero(1), "converged": NO, "restart": from_zero(0)}),
    "inference.Mean": Call(
        {"estimate": real(0.0).besides("nan", "inf", "-inf"), "num_points": COUNT.besides("0")},
        fixed={"std_error": always(math.nan), "monte_carlo_error": always(0.0)},
    ),
    "inference.kl_divergence": Call(
        {name: instance(lambda: torch.distributions.Normal(0.0, 1.0)) for name in ("q", "p")}
    ),
    "inference.separable_sites": Call({"pair": PAIR, "batch": DATA.besides("nan", "inf", "one dimension more")}),
    "datasets.Dataset": Call(
        {
            "name": text(),
            **{name: instance(points, "tensor", "array") for name in ("train", "validation", "test")},
            "shape": sizes(3).besides("empty list"),
            "labels": mapping(ANY_TENSOR, "train", "empty dict"),
            "transform": function(lambda x: x, "None"),
        }
    ),
    "datasets.bits_per_dim": Call(
        {
            "log_evidence": real(-1.0).besides("nan", "inf", "-inf", "tensor", "array"),
            "num_features": COUNT,
            "levels": optional(count(2)),
        }
    ),
    "datasets.dequantize": Call(
        {
            "x": tensor(lambda: torch.tensor([0.0, 1.0]), "no dimension", "too many dimensions"),
            "levels": count(2),
            "generator": instance(torch.Generator, "None"),
        }
    ),
    "datasets.images": Call({"source": data(lambda: torch.rand(3, 4, 4), "too wide", "too narrow", "two")}),
    "datasets.load": Call(
        {
            "name": choice("moons"),
            "binarize": choice("dynamic").besides("None"),
            "dequantize": NO,
            "images": NO,
            "seed": SEED,
        },
        fixed={"binarize": always(None)},
    ),
    "networks.mlp": Call(
        {"num_in": COUNT, "hidden": HIDDEN, "num_out": COUNT, "activation": module_class(), "batch_norm": NO}
    ),
    "networks.hidden_layers": Call({"num_in": COUNT, "hidden": HIDDEN, "activation": module_class(), "batch_norm": NO}),
    "networks.Fold": Call({"network": instance(lambda: nn.Linear(3, 2)), "event_dim": from_zero(1)}),
    "networks.convolutional_encoder": Call(
        {"shape": sizes(1, 4, 4), "channels": sizes(2), "num_out": COUNT, "activation": module_class()}
    ),
    "networks.convolutional_decoder": Call(
        {"num_in": COUNT, "channels": sizes(2), "shape": sizes(1, 4, 4), "activation": module_class()}
    ),
    "networks.inverse_softplus": Call(
        {"value": tensor(lambda: torch.ones(2), "no dimension", "too many dimensions", "nan")}
    ),
    "networks.output_bias": Call({"network": instance(lambda: nn.Linear(3, 2))}),
    "pictures.manifold": Call({"ax": AXES, "pair": instance(image_pair), "shape": SHAPE}),
    "pictures.traversals": Call(
        {"ax": AXES, "pair": instance(image_pair), "data": IMAGES, "shape": SHAPE, "site": optional(choice("z"))}
    ),
    "pictures.reconstructions": Call({"ax": AXES, "pair": instance(image_pair), "data": IMAGES, "shape": SHAPE}),
    "pictures.samples": Call({"ax": AXES, "pair": instance(image_pair), "shape": SHAPE, "rerun": COUNT, "seed": SEED}),
    "pictures.temperatures": Call(
        {
            "ax": AXES,
            "pair": instance(image_pair),
            "shape": SHAPE,
            "scales": sequence(non_negative(0.5), 2),
            "seed": SEED,
        }
    ),
    "pictures.resampled_layers": Call(
        {"ax": AXES, "pair": instance(layered_pair), "data": IMAGES, "shape": SHAPE, "seed": SEED}
    ),
    "pictures.aggregated_posterior": Call({"axes": AXES.besides("list"), "pair": instance(image_pair), "data": IMAGES}),
    "plots.images": Call({"ax": AXES, "x": tensor(images, "nan"), "shape": SHAPE, "columns": COUNT}),
    "plots.points": Call(
        {"ax": AXES, "x": tensor(plane, "nan"), "limits": sequence(real(1.0), 4)},
        fixed={"limits": always((-1.0, 1.0, -1.0, 1.0))},
    ),
    "plots.density": Call(
        {"ax": AXES, "pair": MIXTURE, "limits": sequence(real(1.0), 4), "num_particles": COUNT},
        fixed={"limits": always((-1.0, 1.0, -1.0, 1.0))},
    ),
    "plots.bounds": Call({"ax": AXES, "gaps": mapping(instance(report), "a")}),
    "plots.gap_distribution": Call({"ax": AXES, "gaps": mapping(instance(report), "a")}),
    "plots.bound_curve": Call({"ax": AXES, "curve": instance(curve), "evidence": optional(EVIDENCE)}),
    "plots.training": Call({"ax": instance(axes, names=("curves",)), "curves": mapping(sequence(real(-1.0), 2), "a")}),
    "plots.gradient_statistics": Call({"ds": instance(statistics), "axes": optional(sequence(AXES, 2))}),
    "plots.calibration": Call({"ds": instance(ranks)}),
    "plots.expected_coverage": Call({"ds": instance(coverage)}),
    "plots.log_axes": Call({"ax": AXES, "K": instance(lambda: np.array([1, 2]), "array")}),
    "plots.ledger": Call({"report": instance(report)}),
    "plots.style": Call({}),
    "plots.label_tiles": Call(
        {
            "ax": AXES,
            "shape": SHAPE,
            "columns": instance(lambda: {0.5: "a"}, "empty dict"),
            "rows": instance(lambda: {0.5: "a"}, "empty dict"),
        }
    ),
}
