"""A masked discrete latent is not there: against rows without it, sums by hand, and Pyro's own enumeration."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from support.functions import Functions, normal
from torch import nn

import ppvae
from ppvae import Pair

pytestmark = pytest.mark.usefixtures("float64")

PRIOR = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
TRANSITION = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.3, 0.3, 0.4]], dtype=torch.float64)
MEANS = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)


def masked_by_handler(name, fn, mask):
    with poutine.mask(mask=mask):
        return pyro.sample(name, fn)


def masked_by_distribution(name, fn, mask):
    return pyro.sample(name, fn.mask(mask))


WAYS = [masked_by_handler, masked_by_distribution]


@pytest.mark.parametrize("masked", WAYS)
def test_one_that_only_the_model_has_is_summed_out_to_nothing(masked):
    """Where it is not there, x comes from the second component."""

    def model(x, there):
        with pyro.plate("data", len(x)):
            c = masked("c", dist.Categorical(PRIOR), there)
            c = torch.where(there, c, torch.ones_like(c))
            pyro.sample("x", dist.Normal(MEANS[c], 1.0), obs=x)

    x, there = torch.randn(4), torch.tensor([True, False, True, False])
    pair = Functions(model, lambda x, there: None)
    with_it = (PRIOR.log() + normal(x[:, None], MEANS, 1.0)).logsumexp(-1)
    exact = torch.where(there, with_it, normal(x, MEANS[1], 1.0))
    torch.testing.assert_close(pair.log_prob((x, there)), exact)
    torch.testing.assert_close(pair.log_weights((x, there), 2).log_w, exact.expand(2, 4))
    found = ppvae.log_evidence(pair, (x, there), progress=False)
    torch.testing.assert_close(found.estimate, exact)


@pytest.mark.parametrize("masked", WAYS)
def test_a_hidden_markov_model_of_padded_rows_is_that_of_the_short_rows(masked):
    def model(x, length):
        with pyro.plate("data", len(x)):
            state = None
            for t in range(x.shape[1]):
                there = t < length
                prior = dist.Categorical(PRIOR) if state is None else dist.Categorical(TRANSITION[state])
                state = masked(f"state{t}", prior, there)
                with poutine.mask(mask=there):
                    pyro.sample(f"x{t}", dist.Normal(MEANS[state], 1.0), obs=x[:, t])

    x, length = torch.randn(5, 4), torch.tensor([1, 4, 2, 3, 4])
    pair = Functions(model, lambda x, length: None)
    padded = pair.log_prob((x, length))
    for row, n in enumerate(length.tolist()):
        short = pair.log_prob((x[row : row + 1, :n], torch.tensor([n])))
        torch.testing.assert_close(padded[row : row + 1], short)
        forward = PRIOR * normal(x[row, 0], MEANS, 1.0).exp()
        for t in range(1, n):
            forward = (forward @ TRANSITION) * normal(x[row, t], MEANS, 1.0).exp()
        torch.testing.assert_close(padded[row], forward.sum().log())


class Labels(Pair):
    """A partly labeled mixture by `obs_mask`; a guide for the label, if any, is masked where it is known."""

    def __init__(self, masked=None):
        super().__init__()
        self.means, self.logits = nn.Parameter(MEANS.clone()), nn.Linear(1, 3)
        self.masked = masked

    def model(self, x, y, known):
        with pyro.plate("data", len(x)):
            c = pyro.sample("y", dist.Categorical(PRIOR), obs=y, obs_mask=known)
            pyro.sample("x", dist.Normal(self.means[c], 1.0), obs=x)

    def guide(self, x, y, known):
        if self.masked:
            with pyro.plate("data", len(x)):
                self.masked("y_unobserved", dist.Categorical(logits=self.logits(x[..., None])), ~known)


@pytest.fixture
def labeled():
    return torch.randn(6), torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([True, True, True, False, False, False])


def exact_log_p(pair, x, y, known):
    log_joint = PRIOR.log() + normal(x[:, None], pair.means, 1.0)
    return torch.where(known, log_joint.gather(1, y[:, None])[:, 0], log_joint.logsumexp(-1))


def test_labels_that_are_known_are_no_latents(labeled):
    pair = Labels()
    exact = exact_log_p(pair, *labeled)
    torch.testing.assert_close(pair.log_prob(labeled), exact)
    exact_gradient = torch.autograd.grad(exact.sum(), pair.means)
    torch.testing.assert_close(torch.autograd.grad(pair.log_prob(labeled).sum(), pair.means), exact_gradient)


@pytest.mark.parametrize("masked", WAYS)
def test_a_guide_for_unknown_labels(masked, labeled):
    """The enumerated ELBO in value and gradient, that of `ppvae.elbo`, the sampled ELBO, and the evidence."""
    pair = Labels(masked)
    x, y, known = labeled
    q = dist.Categorical(logits=pair.logits(x[:, None])).probs
    log_joint = PRIOR.log() + normal(x[:, None], pair.means, 1.0)
    exact = torch.where(known, log_joint.gather(1, y[:, None])[:, 0], (q * (log_joint - q.log())).sum(-1))
    value, surrogate = ppvae.EnumeratedELBO()(pair, labeled)
    torch.testing.assert_close(value, exact)
    learned = list(pair.parameters())
    torch.testing.assert_close(torch.autograd.grad(surrogate, learned), torch.autograd.grad(exact.mean(), learned))
    torch.testing.assert_close(pair.exact_elbo(labeled), exact)
    torch.testing.assert_close(ppvae.elbo(pair, labeled, progress=False).estimate, exact)
    draws = pair.log_weights(labeled, 20_000).log_w.detach()
    assert ((draws.mean(0) - exact).abs() <= 4 * draws.std(0) / 20_000**0.5 + 1e-12).all()
    torch.testing.assert_close(ppvae.log_evidence(pair, labeled, progress=False).estimate, exact_log_p(pair, *labeled))


def test_it_is_what_pyro_says(labeled):
    """Row by row, summed out of the model, and enumerated in the guide."""
    for pair, enumerated in ((Labels(), "model"), (Labels(masked_by_handler), "guide")):
        value = pair.log_prob(labeled) if enumerated == "model" else ppvae.EnumeratedELBO()(pair, labeled)[0]
        for row in range(6):
            one = tuple(t[row : row + 1] for t in labeled)
            functions = [pair.model, pair.guide]
            functions[enumerated == "guide"] = config_enumerate(functions[enumerated == "guide"])
            assert -TraceEnum_ELBO(max_plate_nesting=1).loss(*functions, *one) == pytest.approx(value[row].item())
