"""Parts by name: one of each kind is added in a test, used by its name, and gone again; unknown names are refused."""

import functools
import re
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae import ELBO, fit
from ppvae.models import (
    VAE,
    Bernoulli,
    ConvolutionalHVAE,
    DiagonalNormal,
    DiffusionVAE,
    Likelihood,
    MarkovHVAE,
    MLPDenoiser,
    StandardNormal,
)
from ppvae.models.diffusion.diffusion_vae import DECODERS, NamedDecoder
from ppvae.models.diffusion.noise_schedules import NOISE_SCHEDULES, NamedSchedule
from ppvae.models.diffusion.noising import PARAMETERIZATIONS
from ppvae.models.hierarchies.hierarchical_posteriors import HIERARCHICAL_POSTERIORS, NamedHierarchicalPosterior
from ppvae.models.named_likelihoods import LIKELIHOODS, NamedLikelihood, one_per_feature
from ppvae.models.parts.posteriors import POSTERIOR_FAMILIES, NamedPosterior
from ppvae.models.parts.priors import PRIORS, NamedPrior
from ppvae.models.parts.registry import NamedPart, Registry

DOCS = Path(__file__).parents[3] / "docs"
REGISTRIES = {
    "priors": PRIORS,
    "likelihoods": LIKELIHOODS,
    "posteriors": POSTERIOR_FAMILIES,
    "hierarchical posteriors": HIERARCHICAL_POSTERIORS,
    "schedules": NOISE_SCHEDULES,
    "decoders": DECODERS,
}


@pytest.fixture
def added(monkeypatch):
    """Adds a part to a registry for as long as a test takes."""

    def add(registry, part):
        monkeypatch.setitem(registry, part.name, part)

    return add


class LaplacePrior(nn.Module):
    def __init__(self, num_latents):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(num_latents))

    def forward(self):
        return dist.Laplace(torch.zeros_like(self.log_scale), self.log_scale.exp()).to_event(1)


class Poisson(Likelihood):
    def __init__(self, network, event_dim):
        super().__init__()
        self.network, self.event_dim = network, event_dim

    def forward(self, z):
        return dist.Poisson(self.network(z).exp()).to_event(self.event_dim)


class LaplacePosterior(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        loc, log_scale = self.encoder(x).chunk(2, -1)
        return dist.Laplace(loc, log_scale.exp()).to_event(1)


class Sampled(nn.Module):
    """Every layer from the data, by one linear map for all: a guide of a hierarchy."""

    def __init__(self, num_features, num_latents):
        super().__init__()
        self.sizes = list(num_latents)
        self.locs = nn.Linear(num_features, sum(self.sizes))

    def forward(self, x, transitions):
        for layer, loc in enumerate(self.locs(x).split(self.sizes, -1), start=1):
            pyro.sample(f"z{layer}", dist.Normal(loc, 1.0).to_event(1))


def named(kind, name, module, **how):
    return kind(name=name, module=module, summary="of a test", **how)


LAPLACE_PRIOR = named(NamedPrior, "laplace", LaplacePrior, make=lambda D, posterior, shape: LaplacePrior(D))
POISSON = named(
    NamedLikelihood,
    "rates",
    Poisson,
    num_outputs=one_per_feature,
    make=lambda network, shape, levels: Poisson(network(), len(shape)),
)
LAPLACE = named(
    NamedPosterior, "laplace", LaplacePosterior, num_outputs=lambda D: 2 * D, make=lambda net, D: LaplacePosterior(net)
)
SAMPLED = named(
    NamedHierarchicalPosterior,
    "sampled",
    Sampled,
    factorization="q(z_1 | x) ... q(z_L | x)",
    make=lambda networks: Sampled(networks.num_features, networks.num_latents),
)


def counts(*shape):
    return torch.poisson(torch.full((20, *shape), 2.0))


def trains(pair, x):
    before = [p.detach().clone() for p in pair.parameters()]
    fit(pair, x, ELBO(num_particles=2, kl="monte_carlo"), steps=2, progress=False)
    assert all(not torch.equal(p, q) for p, q in zip(pair.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("make", "shape"),
    [(functools.partial(VAE.mlp, 4, 2), (4,)), (functools.partial(VAE.convolutional, (1, 4, 4), 2), (1, 4, 4))],
    ids=["mlp", "convolutional"],
)
def test_a_prior_a_likelihood_and_a_posterior_of_ones_own_are_known_by_their_names(added, make, shape):
    for registry, part in ((PRIORS, LAPLACE_PRIOR), (LIKELIHOODS, POISSON), (POSTERIOR_FAMILIES, LAPLACE)):
        added(registry, part)
    vae = make(prior="laplace", likelihood="rates", posterior="laplace")
    assert [type(part) for part in (vae.prior, vae.likelihood, vae.posterior)] == [
        LaplacePrior,
        Poisson,
        LaplacePosterior,
    ]
    trains(vae, counts(*shape))


def test_hierarchies_know_them_too(added):
    added(LIKELIHOODS, POISSON)
    added(HIERARCHICAL_POSTERIORS, SAMPLED)
    pair = MarkovHVAE.mlp(4, [3, 2], [5], likelihood="rates", posterior="sampled")
    assert (type(pair.likelihood), type(pair.posterior)) == (Poisson, Sampled)
    trains(pair, counts(4))
    images = ConvolutionalHVAE((1, 4, 4), [1], 1, channels=2, num_cells=1, likelihood="rates").eval()
    assert images.log_weights(counts(1, 4, 4), 3).log_w.isfinite().all()


def test_diffusions_know_a_schedule_and_a_decoder_of_ones_own(added):
    class Straight(nn.Module):
        def forward(self, u):
            return 12 * u - 6

    added(NOISE_SCHEDULES, named(NamedSchedule, "straight", Straight, make=Straight))
    added(DECODERS, named(NamedDecoder, "rates", Poisson, make=lambda event_dim: Poisson(nn.Identity(), event_dim)))
    pair = DiffusionVAE(MLPDenoiser(4, [5]), [4], 3, likelihood="rates", schedule="straight")
    torch.testing.assert_close(pair.levels(), torch.tensor([-2.0, 2.0, 6.0]))
    assert pair.log_weights(counts(4), 3).log_w.isfinite().all()


def test_what_was_added_is_gone():
    """After the tests above, as their fixture says."""
    mine = {"laplace", "rates", "sampled", "straight"}
    assert all(mine.isdisjoint(registry) for registry in REGISTRIES.values())


@pytest.mark.parametrize("kind", REGISTRIES)
@pytest.mark.parametrize("name", ["nine", None, ["bernoulli"], nn.Identity()], ids=repr)
def test_what_is_no_name_of_a_part_is_refused_with_the_names(kind, name):
    registry = REGISTRIES[kind]
    names = ", ".join(repr(part.name) for part in registry.values())
    message = f"{registry.argument}: found {name!r}, expected one of {names}; {registry.remedy}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        registry[name]


@pytest.mark.parametrize("argument", ["prior", "likelihood", "posterior"])
def test_makers_refuse_names_by_the_argument(argument):
    for make in (functools.partial(VAE.mlp, 4, 2), functools.partial(VAE.convolutional, (1, 4, 4), 2)):
        with pytest.raises(ValueError, match=f"^{argument}: found 'nine', expected one of '"):
            make(**{argument: "nine"})


def test_a_name_is_given_once():
    registry = Registry("prior", "pass a module", NamedPart(name="normal", module=StandardNormal, summary="N(0, I)"))
    with pytest.raises(ValueError, match="prior: found a second part of the name 'normal', expected each name once"):
        registry.add(NamedPart(name="normal", module=DiagonalNormal, summary="another"))


@pytest.mark.parametrize("kind", REGISTRIES)
def test_a_part_is_of_the_class_that_its_registry_names(kind):
    """So that the documents' tables, which are made of them, name what is made."""
    network = nn.Linear(4, 4)
    made = {
        "priors": lambda part: part.make(3, DiagonalNormal(network), (4,)),
        "likelihoods": lambda part: part.of(lambda num_outputs: nn.Linear(3, num_outputs), (4,)),
        "posteriors": lambda part: part.of(lambda num_outputs: nn.Linear(4, num_outputs), 3),
        "hierarchical posteriors": lambda part: MarkovHVAE.mlp(4, [3, 2], [5], posterior=part.name).posterior,
        "schedules": lambda part: part.make(),
        "decoders": lambda part: part.make(1),
    }[kind]
    for part in REGISTRIES[kind].values():
        assert type(made(part)) is part.module
        assert part.summary


def test_a_sigma_by_a_network_of_its_own_is_had_for_images_too():
    """Every likelihood of the registry is one of vectors and of images."""
    x = torch.rand(5, 2, 4, 4).round()
    for name in LIKELIHOODS:
        vae = VAE.convolutional((2, 4, 4), 3, [3], likelihood=name, levels=2).init_from(x)
        vae.check(x)
        assert isinstance(vae.likelihood, LIKELIHOODS[name].module)
    sigma = VAE.convolutional((2, 4, 4), 3, [3], "heteroscedastic").likelihood.sigma(torch.randn(6, 3))
    assert sigma.shape == (6, 2, 4, 4)
    assert sigma.std() > 0


def test_a_prior_that_can_start_at_the_data_is_started_there():
    class Starting(StandardNormal):
        def init_from(self, x):
            self.loc.fill_(x.mean())

    vae = VAE(Starting(2), Bernoulli(nn.Linear(2, 4)), DiagonalNormal(nn.Linear(4, 4)))
    assert (vae.init_from(torch.ones(3, 4)).prior.loc == 1).all()


def tables(page):
    """The rows of a page's tables below their headings, as lists of cells."""
    rows = re.findall(r"^\|(.*)\|$", (DOCS / page).read_text(), re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in rows]


def test_the_page_of_hierarchies_lists_their_posteriors():
    rows = [
        [
            f'`"{part.name}"`',
            f"`{part.factorization}`".replace("|", r"\|"),
            part.summary.replace("|", r"\|"),
            part.source,
        ]
        for part in HIERARCHICAL_POSTERIORS.values()
    ]
    assert tables("hierarchies.md")[2 : 2 + len(rows)] == rows


def test_the_page_of_measured_parts_has_them_all_or_says_which_it_has_not():
    page, rows = (DOCS / "parts.md").read_text(), tables("parts.md")
    pairs, likelihoods = [row for row in rows if len(row) == 7], [row for row in rows if len(row) == 4]
    not_measured = set(re.findall(r'"([\w-]+)"', page.split("Not measured on this page: ")[1]))
    measured = [{row[i] for row in table[2:]} for table, i in ((pairs, 0), (pairs, 1), (likelihoods, 0))]
    for registry, names in zip((PRIORS, POSTERIOR_FAMILIES, LIKELIHOODS), measured, strict=True):
        assert names <= set(registry)
        assert set(registry) - names <= not_measured
        assert names.isdisjoint(not_measured)


def test_the_page_of_diffusion_names_its_schedules_and_decoders():
    page = (DOCS / "diffusion.md").read_text()
    assert all(f'"{name}"' in page for name in [*NOISE_SCHEDULES, *DECODERS, *PARAMETERIZATIONS])


def test_the_part_that_the_page_of_pairs_adds_is_known():
    page = (DOCS / "pairs.md").read_text()
    block = re.search(r"A part of your own.*?```python\n(.*?)```", page, re.DOTALL)[1]
    names = {"ppvae": ppvae}
    try:
        exec(block, names)
    finally:
        POSTERIOR_FAMILIES.pop("laplace", None)
    assert type(names["vae"].posterior) is names["Laplace"]
    assert names["vae"].log_weights(torch.rand(3, 64).round()).log_w.isfinite().all()
