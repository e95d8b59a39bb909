"""A pair that goes up to the longest row of a batch has other sites in other batches: NaN where a row has none."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from support.functions import Functions

import ppvae
from ppvae import ContractError, row_chunks
from ppvae.inference.runtime import chunks
from ppvae.latent_view import LatentView

pytestmark = pytest.mark.usefixtures("float64")
QUIET = {"seed": 0, "progress": False}
LENGTHS = torch.tensor([1] * 12 + [2, 3] * 6 + [1] * 12)
X = torch.randn(36, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
THERE = torch.arange(3) < LENGTHS[:, None]
EXACT = torch.where(THERE, dist.Normal(0.0, 2**0.5).log_prob(X), 0.0).sum(1)


def up_to(num_steps):
    """A latent for each step, and the exact guide."""

    def model(x, lengths):
        with pyro.plate("data", len(x)):
            for t in range(num_steps(x, lengths)):
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z{t}", dist.Normal(0.0, 1.0))
                    pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])

    def guide(x, lengths):
        with pyro.plate("data", len(x)):
            for t in range(num_steps(x, lengths)):
                with poutine.mask(mask=t < lengths):
                    pyro.sample(f"z{t}", dist.Normal(x[:, t] / 2, 0.5**0.5))

    return Functions(model, guide)


PAIR, PADDED = up_to(lambda x, lengths: int(lengths.max())), up_to(lambda x, lengths: x.shape[1])
ORDERS = {"short rows first": slice(None), "long rows first": torch.arange(36).roll(-12)}


@pytest.fixture(params=ORDERS)
def order(request, monkeypatch):
    monkeypatch.setattr(row_chunks, "AT_ONCE", 12)
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", 1)
    return ORDERS[request.param]


def test_what_a_pair_shows_of_all_data(order):
    x, lengths, there = X[order], LENGTHS[order], THERE[order]
    found = PAIR.encode((x, lengths), num_samples=1)
    assert sorted(found) == ["z0", "z1", "z2"]
    for t in range(3):
        mean = torch.where(there[:, t], x[:, t] / 2, torch.nan)
        assert torch.allclose(found[f"z{t}"].mean, mean, equal_nan=True)
        assert torch.equal(PAIR.latents((x, lengths))[f"z{t}"][0].isnan(), ~there[:, t])
    drawn = PAIR.sample((x, lengths))
    assert sorted(drawn) == sorted(PAIR.reconstruct((x, lengths))) == ["x0", "x1", "x2"]
    assert not any(drawn[f"x{t}"][there[:, t]].isnan().any() for t in range(3))


def test_what_is_measured_by_data_point(order):
    data = X[order], LENGTHS[order]
    assert torch.allclose(ppvae.log_evidence(PAIR, data, "iwae", **QUIET).estimate, EXACT[order])
    assert torch.allclose(ppvae.elbo(PAIR, data, **QUIET).estimate, EXACT[order])


def test_what_is_measured_by_latent_is_refused_and_the_remedy_works(order):
    """Terms of some sites would be counted among those of the data."""
    data = X[order], LENGTHS[order]
    with pytest.raises(ContractError, match=r"site 'z\d': found for some .* not for others.*`range\(x"):
        ppvae.elbo_terms(PAIR, data, **QUIET)
    terms = ppvae.elbo_terms(PADDED, data, **QUIET)
    assert torch.allclose(terms.elbo.estimate, EXACT[order])
    assert list(terms.latents) == ["z0", "z1", "z2"]
    assert (terms.latents["z2"].kl.estimate[LENGTHS[order] < 3] == 0).all()


@pytest.mark.parametrize(("one", "other"), [(2, 3), (3, 2)])
def test_a_view_of_other_latents_is_refused(one, other):
    two, three = ((X[LENGTHS.eq(num)], LENGTHS[LENGTHS.eq(num)]) for num in (one, other))
    view = LatentView(PAIR, two)
    u = view.draw(PAIR, two, 4)
    log_start, log_joint = view.densities(PAIR, two, u)
    assert torch.allclose(log_joint - log_start, EXACT[LENGTHS.eq(one)].expand(4, 6))
    for of_view in (view.densities, view.log_start, view.latents):
        with pytest.raises(ContractError, match="site 'z2': found for some data points and not for others"):
            of_view(PAIR, three, u)


def test_a_row_outside_the_support_is_named_wherever_it_is(order):
    def model(x, lengths):
        with pyro.plate("data", len(x)):
            for t in range(int(lengths.max())):
                with poutine.mask(mask=t < lengths):
                    pyro.sample(f"x{t}", dist.Exponential(1.0), obs=x[:, t])

    x, lengths = X[order].abs(), LENGTHS[order]
    row = int((lengths == 3).nonzero()[2])
    exact = -torch.where(THERE[order], x, 0.0).sum(1)
    pair = Functions(model)
    assert torch.allclose(ppvae.log_evidence(pair, (x, lengths), "exact", **QUIET).estimate, exact)
    x[row, 2] = -1.0
    with pytest.raises(ValueError, match=rf"found row {row} outside the support of the likelihood at site 'x2'"):
        ppvae.log_evidence(pair, (x, lengths), "exact", **QUIET)
