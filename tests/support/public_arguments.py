"""Small valid arguments of public callables, and their kinds."""

import functools
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from support.malformed_values import (
    always,
    choice,
    count,
    data,
    flag,
    instance,
    optional,
    path,
    seed,
    sizes,
)

import ppvae
from ppvae.inference.ledger.latent_usage import LatentUsage
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


def sandwich():
    return ppvae.Sandwich(upper(), upper(), upper())


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
HIDDEN = SHAPE.besides("empty list")
ANY_BATCH = DATA.besides("too wide", "too narrow", "one dimension more", "wrong keys", "two")
BATCH = DATA.besides(
    *("nan", "inf", "complex", "no rows", "no dimension", "too wide", "too narrow", "one dimension more", "sparse"),
    *("empty dict", "wrong keys", "two", "of two lengths"),
)
ANY_TENSOR = instance(lambda: torch.zeros(6), "tensor", "array")
AIS = instance(lambda: ppvae.AIS(2, 2))
GRADIENT = choice("stl")
ROWS = always(torch.zeros(4, 6))
STEP = instance(ppvae.StepOptions)
