"""A valid call of each public callable but the models, with the kind of each argument."""

import functools
import math
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from support.malformed_values import (
    Call,
    always,
    choice,
    count,
    data,
    flag,
    fraction,
    from_zero,
    function,
    instance,
    mapping,
    module_class,
    non_negative,
    optional,
    path,
    positive,
    real,
    seed,
    sequence,
    sizes,
    tensor,
    text,
)
from torch import nn

import ppvae
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.latent_usage import LatentUsage
from ppvae.inference.ledger.likelihood_scale import LikelihoodScale
from ppvae.models import GaussianMixture, LinearVAE

mpl.use("agg")


def linear():
    torch.manual_seed(0)
    return LinearVAE(3, 2)


def checked_linear():
    pair = linear()
    pair.check(points())
    return pair


def points():
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def images():
    return (torch.linspace(-1, 1, 24).reshape(6, 4) > 0).float()


def image_pair():
    torch.manual_seed(0)
    pair = ppvae.models.VAE.mlp(4, 2, [3])
    pair.check(images())
    return pair


def layered_pair():
    torch.manual_seed(0)
    pair = ppvae.models.MarkovHVAE.mlp(4, [2, 2], [3])
    pair.check(images())
    return pair


def mixture():
    torch.manual_seed(0)
    return GaussianMixture(2, 2)


def plane():
    return torch.linspace(-1, 1, 24).reshape(12, 2) + torch.tensor([[0.0, 0.3], [1.0, -0.2]]).repeat(6, 1)


def exact():
    return LinearVAE(3, 2, guide="exact")


@functools.cache
def evidence():
    return ppvae.log_evidence(linear(), points(), "exact", progress=False)


@functools.cache
def upper():
    return ppvae.elbo(linear(), points(), 4, seed=0, progress=False)


@functools.cache
def report():
    return ppvae.gap(linear(), points(), little_effort(), progress=False, seed=0)


@functools.cache
def curve():
    return ppvae.bound_curve(linear(), points(), [1, 2], progress=False, seed=0)


@functools.cache
def statistics():
    return ppvae.gradient_statistics(linear(), points(), [ppvae.IWAE(2)], [1, 2], 16, progress=False)


@functools.cache
def ranks():
    return ppvae.calibration(checked_linear(), 20, 9, seed=0, progress=False)


@functools.cache
def coverage():
    return ppvae.expected_coverage(checked_linear(), 20, 9, seed=0, progress=False)


@functools.cache
def folder():
    return Path(tempfile.mkdtemp())


@functools.cache
def saved_pair():
    ppvae.save(linear(), folder() / "pair.safetensors")
    return folder() / "pair.safetensors"


@functools.cache
def saved_trainer():
    ppvae.Trainer(linear()).save(folder() / "trainer.safetensors")
    return folder() / "trainer.safetensors"


@functools.cache
def saved_report():
    report().save(folder() / "report.nc")
    return folder() / "report.nc"


def little_effort():
    return ppvae.Effort("exact", 2, (ppvae.AIS(2, 2),), 2, None, 0, False, 0)


def axes():
    from matplotlib.figure import Figure

    return Figure().subplots()


def fitted():
    return ppvae.Fit(linear(), ppvae.ELBO(), {"bound": np.array([-2.0, -1.0])}, 2, 2, 0.1, "epochs")


def trainer():
    return ppvae.Trainer(linear())


def usage():
    return LatentUsage(upper(), 0.1, 1.0, 1, 2)


def model(x):
    import pyro
    import pyro.distributions as dist

    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), torch.ones(3)).to_event(1), obs=x)


def guide(x):
    import pyro
    import pyro.distributions as dist

    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


PAIR = instance(linear)
DATA = data(points)
IMAGES = data(images)
MIXTURE = instance(mixture)
PLANE = data(plane)
COUNT = count(2)
SEED, MAYBE_SEED = seed(), optional(seed())
NO = flag(False)
FILE = path(lambda: folder() / "new.safetensors")
MEASUREMENT = instance(upper)
EVIDENCE = instance(evidence)
AXES = instance(axes)
SHAPE = sizes(2, 2)
BATCH = DATA.besides(
    *("nan", "inf", "complex", "no rows", "no dimension", "too wide", "too narrow", "one dimension more", "sparse"),
    *("empty dict", "wrong keys", "two", "of two lengths"),
)
ANY_TENSOR = instance(lambda: torch.zeros(6), "tensor")
AIS = instance(lambda: ppvae.AIS(2, 2))
GRADIENT = choice("stl")
ROWS = always(torch.zeros(4, 6))
STEP = instance(ppvae.StepOptions)

FIT = {
    "data": data(points, "generator"),
    "objective": function(ppvae.ELBO(), "None"),
    "batch_size": count(3),
    "drop_last": NO,
    "weights": data(lambda: torch.ones(6), "None"),
    "optimizer": choice("adam"),
    "lr": positive(1e-3),
    "schedule": function(lambda done: 1.0, "None"),
    "seed": SEED,
    "device": optional(choice("cpu")).besides("capitals"),
    "transform": function(lambda x: x, "None"),
    "held_out": data(points, "None"),
    "callbacks": sequence(function(lambda fit: None), 1, "empty list"),
    "progress": NO,
    "compile": flag(False),
    "checkpoint": path(lambda: folder() / "run.safetensors").besides("None"),
    "resume": NO,
    "options": optional(STEP),
}

CALLS = {
    "AIS": Call(
        {
            "num_chains": COUNT,
            "num_temperatures": COUNT,
            "start": choice("prior"),
            "schedule": choice("adaptive"),
            "num_leapfrog": COUNT,
            "checkpoint": path(lambda: folder() / "ais").besides("None", "folder"),
        }
    ),
    "CIWAE": Call({"num_particles": COUNT, "gradient": GRADIENT, "beta": fraction(0.5)}),
    "CUBO": Call({"num_particles": COUNT, "gradient": choice("score"), "n": positive(2.0)}),
    "Checkpoint": Call({"path": FILE.besides("folder"), "every": optional(COUNT)}),
    "ELBO": Call(
        {
            "num_particles": COUNT,
            "kl": choice("auto"),
            "beta": non_negative(1.0),
            "free_bits": non_negative(0.0),
            "balance": NO,
            "gradient": choice("reparameterized"),
        }
    ),
    "Effort": Call(
        {
            "evidence": choice("best"),
            "num_particles": COUNT,
            "annealing": sequence(AIS, 2, "empty list"),
            "num_samples": COUNT,
            "ascent": optional(instance(Ascent)),
            "restarts": from_zero(1),
            "richer": flag(True),
            "refit_steps": from_zero(10),
        }
    ),
    "ElboTerms": Call(
        {
            "pair": text(),
            "elbo": MEASUREMENT,
            "expected_log_likelihood": MEASUREMENT,
            "latents": mapping(instance(usage), "z", "empty dict"),
        }
    ),
    "Encoding": Call({"mean": ANY_TENSOR, "std": ANY_TENSOR}),
    "EnumeratedELBO": Call({"num_particles": COUNT}),
    "Evidence.of": Call(
        {
            "method": text("iwae"),
            "num_particles": from_zero(2),
            "found": mapping(ANY_TENSOR, "estimate"),
            "reliable": instance(lambda: torch.ones(6, dtype=torch.bool), "tensor"),
            "limits": sequence(text(), 1, "empty list"),
        },
        fixed={"found": lambda: {"estimate": torch.zeros(6), "std_error": torch.zeros(6)}},
    ),
    "Evidence.with_rows": Call(
        {"at": instance(lambda: torch.ones(6, dtype=torch.bool)), "other": EVIDENCE}, owner=evidence
    ),
    "Evidence": Call(
        {
            **{name: ANY_TENSOR for name in ("estimate", "std_error", "ess", "khat", "acceptance", "divergences")},
            "reliable": instance(lambda: torch.ones(6, dtype=torch.bool), "tensor"),
            "num_particles": from_zero(2),
            "method": text("iwae"),
            "methods": sequence(text(), 6),
        }
    ),
    "Fit": Call(
        {
            "pair": PAIR,
            "objective": function(ppvae.ELBO()),
            "history": mapping(instance(lambda: np.zeros(2), "array", "tensor"), "bound", "empty dict"),
            "epochs": from_zero(1),
            "steps": from_zero(1),
            "seconds": non_negative(0.1),
            "stopped": text(),
            "warning": text(),
        }
    ),
    "GapReport": Call(
        {
            "pair": text(),
            "log_evidence": EVIDENCE,
            "elbo": MEASUREMENT,
            "measured": mapping(MEASUREMENT, "elbo_refined", "empty dict"),
            "latents": mapping(instance(usage), "z", "empty dict"),
            "likelihood": mapping(instance(lambda: LikelihoodScale(1.0, 0.0, 0.0, 0.0)), "x", "empty dict"),
            "amortization_undefined": text(),
            "local_parameters": NO,
            "train": optional(instance(report)),
            "notes": mapping(text(), "gap", "empty dict"),
        }
    ),
    "GapReport.load": Call({"path": path(saved_report)}),
    "GapReport.save": Call({"path": path(lambda: folder() / "new.nc")}, owner=report),
    "GumbelSoftmaxELBO": Call({"num_particles": COUNT, "temperature": positive(0.5)}),
    "HeldOut": Call({"data": data(points), "patience": optional(COUNT), "keep_best": NO}),
    "IWAE": Call({"num_particles": COUNT, "gradient": GRADIENT}),
    "JVI": Call({"num_particles": COUNT, "order": from_zero(1)}),
    "LinearWarmup": Call({"steps": COUNT, "delay": from_zero(1)}),
    "MIWAE": Call({"num_particles": COUNT, "gradient": GRADIENT, "num_groups": COUNT}),
    "Measurement": Call(
        {
            "estimate": ANY_TENSOR,
            "std_error": ANY_TENSOR,
            "num_particles": from_zero(1),
            "method": text(),
            "warning": text(),
            "kind": text(),
        }
    ),
    "PIWAE": Call({"num_particles": COUNT, "gradient": GRADIENT, "num_groups": COUNT}),
    "RWS": Call({"num_particles": COUNT, "gradient": choice("score"), "phase": choice("wake")}),
    "Renyi": Call({"num_particles": COUNT, "gradient": choice("score"), "alpha": real(0.5)}),
    "SUMO": Call({"num_particles": COUNT}),
    "SUMO.estimate": Call({"log_w": instance(lambda: torch.zeros(8, 6)), "num_terms": ANY_TENSOR}, owner=ppvae.SUMO),
    "SUMO.num_terms": Call({"u": ANY_TENSOR}, owner=ppvae.SUMO),
    "Sandwich": Call({"lower": MEASUREMENT, "upper": MEASUREMENT, "width": MEASUREMENT}),
    "SingleTermELBO": Call({"num_particles": COUNT, "stratified": flag(True)}),
    "StepOptions": Call(
        {
            "clip_norm": optional(positive(1.0)).besides("inf"),
            "ema": optional(fraction(0.9)),
            "autocast": instance(lambda: torch.bfloat16, "None"),
            "distributed": flag(False),
        }
    ),
    "TVO": Call(
        {
            "num_particles": COUNT,
            "gradient": choice("score"),
            "partition": sequence(fraction(1.0), 2),
            "upper": NO,
        },
        fixed={"partition": always((0.0, 1.0))},
    ),
    "Trainer": Call(
        {
            "pair": PAIR,
            **{name: FIT[name] for name in ("objective", "optimizer", "lr", "schedule", "seed", "device", "options")},
            "compile": NO,
        }
    ),
    "Trainer.check": Call({"batch": DATA}, owner=trainer),
    "Trainer.converted": Call({"batch": BATCH}, owner=trainer),
    "Trainer.step": Call({"batch": DATA}, owner=trainer),
    "Trainer.load": Call({"path": path(saved_trainer)}, owner=trainer),
    "Trainer.save": Call({"path": FILE}, owner=trainer),
    "VIMCO": Call({"num_particles": COUNT, "gradient": choice("score")}),
    "VRMax": Call({"num_particles": COUNT, "gradient": choice("score")}),
    "Weights": Call(
        {name: mapping(ANY_TENSOR, "z", "empty dict") for name in ("log_p_sites", "log_q_sites", "latents")}
    ),
    "bound_curve": Call(
        {"pair": PAIR, "data": DATA, "num_particles": sequence(COUNT, 2), "seed": MAYBE_SEED, "progress": NO},
        fixed={"num_particles": always((1, 2))},
    ),
    "compare": Call({"evidences": mapping(EVIDENCE, "a")}),
    "elbo": Call({"pair": PAIR, "data": DATA, "num_samples": COUNT, "seed": MAYBE_SEED, "progress": NO}),
    "elbo_terms": Call({"pair": PAIR, "data": DATA, "num_samples": COUNT, "seed": MAYBE_SEED, "progress": NO}),
    "fit": Call({"pair": PAIR, **FIT, "steps": count(2)}),
    "fit_em": Call(
        {
            "mixture": MIXTURE,
            "data": PLANE,
            "weights": data(lambda: torch.ones(12), "None"),
            "init": choice("k-means++"),
            "restarts": COUNT,
            "max_iterations": COUNT.besides("0"),
            "tolerance": non_negative(1e-6),
            "covariance_floor": non_negative(1e-6),
            "hard": NO,
            "update": sequence(choice("means"), 1),
            "seed": SEED,
            "progress": NO,
        }
    ),
    "fit_streaming_em": Call(
        {
            "mixture": MIXTURE,
            "batches": data(plane, "generator"),
            "batch_size": count(6),
            "epochs": COUNT,
            "init": choice("k-means++"),
            "step_exponent": fraction(0.6),
            "covariance_floor": non_negative(1e-6),
            "seed": SEED,
            "progress": NO,
        }
    ),
    "gap": Call(
        {
            "pair": PAIR,
            "data": DATA,
            "effort": instance(little_effort),
            "train": data(points, "None"),
            "transform": function(lambda x: x, "None"),
            "seed": MAYBE_SEED,
            "progress": NO,
        }
    ),
    "gradient_statistics": Call(
        {
            "pair": PAIR,
            "data": DATA,
            "objectives": sequence(instance(ppvae.IWAE), 1),
            "num_particles": sequence(COUNT, 1),
            "repeats": count(16),
            "groups": mapping(sequence(text("weight"), 1), "all", "None"),
            "seed": SEED,
            "compile": NO,
            "progress": NO,
        }
    ),
    "load": Call({"pair": instance(linear), "path": path(saved_pair)}),
    "log_evidence": Call(
        {
            "pair": PAIR,
            "data": DATA,
            "method": choice("iwae"),
            "num_particles": COUNT,
            "annealing": optional(AIS).besides("list", "empty list"),
            "seed": MAYBE_SEED,
            "progress": NO,
        }
    ),
    "save": Call({"pair": PAIR, "path": FILE}),
    "to_arviz": Call(
        {
            "pair": PAIR.besides("list"),
            "data": DATA,
            "posterior": choice("guide"),
            "num_samples": COUNT,
            "annealing": optional(AIS),
            "seed": MAYBE_SEED,
            "dims": optional(mapping(sequence(text("dim"), 1), "z", "empty dict")),
            "coords": optional(mapping(sequence(count(1), 2), "dim", "empty dict")),
            "progress": NO,
        },
        fixed={"coords": dict, "annealing": always(None)},
    ),
    "calibration": Call(
        {
            "pair": instance(checked_linear),
            "num_simulations": count(20),
            "num_samples": count(9),
            "seed": MAYBE_SEED,
            "progress": NO,
        }
    ),
    "expected_coverage": Call(
        {
            "pair": instance(checked_linear),
            "num_simulations": count(20),
            "num_samples": count(9),
            "seed": MAYBE_SEED,
            "progress": NO,
        }
    ),
    "local_classifier_test": Call(
        {
            "pair": instance(checked_linear),
            "data": DATA,
            "num_simulations": count(20),
            "num_samples": count(4),
            "num_permutations": count(19),
            "seed": MAYBE_SEED,
            "progress": NO,
        }
    ),
    "Pair.of": Call(
        {
            "model": function(model),
            "guide": function(guide),
            "example": data(points),
            "condition": optional(mapping(ANY_TENSOR, "z", "empty dict")),
        },
        fixed={"condition": always(None)},
    ),
    "Pair.check": Call({"batch": DATA}, owner=linear),
    "Pair.check_once": Call({"batch": DATA}, owner=linear),
    "Pair.checked": Call({"data": DATA}, owner=linear),
    "Pair.encode": Call({"batch": DATA, "num_samples": COUNT}, owner=linear),
    "Pair.examples": Call({"num": COUNT}, owner=checked_linear),
    "Pair.latents": Call({"batch": DATA, "num_particles": COUNT}, owner=linear),
    "Pair.log_weights": Call({"batch": DATA, "num_particles": COUNT}, owner=linear),
    "Pair.reconstruct": Call({"batch": DATA, "num_particles": COUNT}, owner=linear),
    "Pair.sample": Call({"at": count(2)}, owner=checked_linear),
    "Pair.sample_joint": Call({"at": count(2), "observed": optional(flag(True))}, owner=checked_linear),
    "inference.BoundCurve": Call(
        {
            "num_particles": sequence(COUNT, 2),
            "bounds": sequence(MEASUREMENT, 2),
            "limit": MEASUREMENT,
            "khat": ANY_TENSOR,
        }
    ),
    "inference.EMResult": Call({"num_iterations": from_zero(1), "converged": NO, "restart": from_zero(0)}),
    "inference.Mean": Call(
        {"estimate": real(0.0).besides("nan", "inf", "-inf"), "num_points": COUNT},
        fixed={"std_error": always(math.nan), "monte_carlo_error": always(0.0)},
    ),
    "inference.kl_divergence": Call(
        {name: instance(lambda: torch.distributions.Normal(0.0, 1.0)) for name in ("q", "p")}
    ),
    "inference.separable_sites": Call({"pair": PAIR, "batch": DATA}),
    "datasets.Dataset": Call(
        {
            "name": text(),
            **{name: instance(points, "tensor") for name in ("train", "validation", "test")},
            "shape": sizes(3),
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
        {"num_in": COUNT, "hidden": sizes(2, 2), "num_out": COUNT, "activation": module_class(), "batch_norm": NO}
    ),
    "networks.hidden_layers": Call(
        {"num_in": COUNT, "hidden": sizes(2, 2), "activation": module_class(), "batch_norm": NO}
    ),
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
    "plots.images": Call({"ax": AXES, "x": tensor(images), "shape": SHAPE, "columns": COUNT}),
    "plots.points": Call(
        {"ax": AXES, "x": tensor(plane), "limits": sequence(real(1.0), 4)},
        fixed={"limits": always((-1.0, 1.0, -1.0, 1.0))},
    ),
    "plots.density": Call(
        {"ax": AXES, "pair": MIXTURE, "limits": sequence(real(1.0), 4), "num_particles": COUNT},
        fixed={"limits": always((-1.0, 1.0, -1.0, 1.0))},
    ),
    "plots.bounds": Call({"ax": AXES, "gaps": mapping(instance(report), "a")}),
    "plots.gap_distribution": Call({"ax": AXES, "gaps": mapping(instance(report), "a")}),
    "plots.bound_curve": Call({"ax": AXES, "curve": instance(curve), "evidence": optional(EVIDENCE)}),
    "plots.training": Call({"ax": AXES, "curves": mapping(sequence(real(-1.0), 2), "a")}),
    "plots.gradient_statistics": Call({"ds": instance(statistics), "axes": optional(sequence(AXES, 2))}),
    "plots.calibration": Call({"ds": instance(ranks)}),
    "plots.expected_coverage": Call({"ds": instance(coverage)}),
    "plots.log_axes": Call({"ax": AXES, "K": instance(lambda: np.array([1, 2]))}),
    "plots.ledger": Call({"report": instance(report)}),
    "plots.label_tiles": Call(
        {
            "ax": AXES,
            "shape": SHAPE,
            "columns": instance(lambda: {0.5: "a"}, "empty dict"),
            "rows": instance(lambda: {0.5: "a"}, "empty dict"),
        }
    ),
}
