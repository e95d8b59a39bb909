"""Discrete sites that only the model has are summed out exactly: against sums over all values, by brute force."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.functions import Functions, normal

from ppvae.tracing import trace_pair

pytestmark = pytest.mark.usefixtures("float64")


def guide(x, y=None):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(x / 3, 0.8))


PRIOR = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
TRANSITION = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.3, 0.3, 0.4]], dtype=torch.float64)
MEANS = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)


def single(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(PRIOR))
        pyro.sample("x", dist.Normal(MEANS[c], 1.0), obs=x)


def sum_over(log_joint, num_sites):
    """`log sum_c exp log_joint(c_1, ..., c_n)` by brute force over three values each."""
    return torch.stack([log_joint(*cs) for cs in itertools.product(range(3), repeat=num_sites)]).logsumexp(0)


def test_single_discrete_site_is_summed_out():
    x, pair = torch.randn(4), Functions(single)
    pair.check(x)
    exact = sum_over(lambda c: PRIOR[c].log() + normal(x, MEANS[c], 1.0), 1)
    weights = pair.log_weights(x, num_particles=2)
    assert list(weights.log_p_sites) == ["c,x"]
    assert weights.latents == weights.log_q_sites == {}
    torch.testing.assert_close(weights.log_w, exact.expand(2, 4))
    torch.testing.assert_close(pair.log_prob(x), exact)


def test_two_dependent_discrete_sites_are_summed_out():
    def two(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(PRIOR))
            b = pyro.sample("b", dist.Categorical(TRANSITION[a]))
            pyro.sample("x", dist.Normal(MEANS[a] + b, 1.0), obs=x[:, 0])
            pyro.sample("y", dist.Normal(MEANS[b], 2.0), obs=x[:, 1])

    x, pair = torch.randn(4, 2), Functions(two)
    pair.check(x)
    log_joint = lambda a, b: (  # noqa: E731
        PRIOR[a].log() + TRANSITION[a, b].log() + normal(x[:, 0], MEANS[a] + b, 1.0) + normal(x[:, 1], MEANS[b], 2.0)
    )
    torch.testing.assert_close(pair.log_prob(x), sum_over(log_joint, 2))
    torch.testing.assert_close(pair.log_weights(x).log_w[0], sum_over(log_joint, 2))


def chain(x):
    with pyro.plate("data", len(x)):
        c = None
        for t in pyro.markov(range(x.shape[1])):
            c = pyro.sample(f"c{t}", dist.Categorical(PRIOR if c is None else TRANSITION[c]))
            pyro.sample(f"x{t}", dist.Normal(MEANS[c], 1.0), obs=x[:, t])


def chain_log_joint(x):
    def log_joint(*cs):
        prior = PRIOR[cs[0]].log() + sum(TRANSITION[c, d].log() for c, d in itertools.pairwise(cs))
        return prior + sum(normal(x[:, t], MEANS[c], 1.0) for t, c in enumerate(cs))

    return log_joint


def test_markov_chain_is_summed_out():
    x, pair = 2 * torch.randn(4, 5), Functions(chain)
    pair.check(x)
    torch.testing.assert_close(pair.log_prob(x), sum_over(chain_log_joint(x), 5))
    torch.testing.assert_close(pair.log_weights(x, 2).log_w, sum_over(chain_log_joint(x), 5).expand(2, 4))


def test_a_long_markov_chain_is_linear_in_its_length():
    x = torch.randn(2, 100)
    alpha = PRIOR.log() + normal(x[:, :1], MEANS, 1.0)
    for t in range(1, 100):
        alpha = (alpha[:, :, None] + TRANSITION.log()).logsumexp(1) + normal(x[:, t, None], MEANS, 1.0)
    torch.testing.assert_close(Functions(chain).log_prob(x), alpha.logsumexp(1))


def mixture_prior(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(PRIOR))
        z = pyro.sample("z", dist.Normal(MEANS[c], 1.0))
        pyro.sample("x", dist.Normal(z, 2.0), obs=x)


def test_discrete_site_above_a_continuous_latent_of_the_guide():
    """A mixture prior: given z the sum over c concerns p(z) alone."""
    x, pair = torch.randn(4), Functions(mixture_prior, guide)
    pair.check(x)
    weights = pair.log_weights(x, num_particles=3)
    z = weights.latents["z"]
    prior = sum_over(lambda c: PRIOR[c].log() + normal(z, MEANS[c], 1.0), 1)
    torch.testing.assert_close(weights.log_p_sites, {"c,z": prior, "x": normal(x, z, 2.0)})
    torch.testing.assert_close(weights.log_w, prior + normal(x, z, 2.0) - normal(z, x / 3, 0.8))


def test_discrete_site_below_a_continuous_latent_of_the_guide():
    def mixed(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            c = pyro.sample("c", dist.Bernoulli(logits=z))
            pyro.sample("x", dist.Normal(z + 2 * c, 1.0), obs=x)

    x, pair = torch.randn(4), Functions(mixed, guide)
    pair.check(x)
    weights = pair.log_weights(x, num_particles=3)
    z = weights.latents["z"]
    given = (z.sigmoid().log() + normal(x, z + 2, 1.0)).logaddexp((-z).sigmoid().log() + normal(x, z, 1.0))
    torch.testing.assert_close(weights.log_w, normal(z, 0.0, 1.0) + given - normal(z, x / 3, 0.8))


@pytest.mark.parametrize("infer", [{}, {"enumerate": "parallel"}, {"enumerate": "sequential"}])
def test_discrete_site_that_the_guide_has_is_drawn(infer):
    """Whatever the functions say about enumeration themselves, as code written for `TraceEnum_ELBO` does."""
    q = torch.tensor([0.5, 0.1, 0.4])

    def annotated(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(PRIOR), infer=infer)
            pyro.sample("x", dist.Normal(MEANS[c], 1.0), obs=x)

    def drawing(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(q), infer=infer)

    x, pair = torch.randn(4), Functions(annotated, drawing)
    pair.check(x)
    weights = pair.log_weights(x, num_particles=50)
    c = weights.latents["c"]
    assert set(c.flatten().tolist()) == {0, 1, 2}
    torch.testing.assert_close(weights.log_w, PRIOR[c].log() + normal(x, MEANS[c], 1.0) - q[c].log())
    exact = sum_over(lambda c: PRIOR[c].log() + normal(x, MEANS[c], 1.0), 1)
    torch.testing.assert_close(Functions(annotated).log_weights(x).log_w[0], exact)


def test_an_enumerated_guide_is_summed_over_by_its_dim():
    x = torch.randn(4)

    def enumerated(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(3)))
            pyro.sample("z", dist.Normal(MEANS[c], 1.0))

    joint = trace_pair(Functions(mixture_prior, enumerated), x, 2, enumerate_guide=True)
    assert {name: term.shape for name, term in joint.log_q_terms().items()} == {"c": (3, 2, 4), "z": (3, 2, 4)}
    z = joint.guide.nodes["z"]["value"]
    exact = PRIOR.log()[:, None, None] + normal(z, MEANS[:, None, None], 1.0) + normal(x, z, 2.0)
    torch.testing.assert_close(sum(joint.log_p_terms().values()), exact)


def test_factors_that_peak_far_apart_do_not_underflow():
    """Two observations that disagree about their cause by thousands of nats, in single precision."""

    def disagreeing(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("a", dist.Normal(100 * c, torch.tensor(1.0)), obs=x)
            pyro.sample("b", dist.Normal(100 * c, torch.tensor(1.0)), obs=100 - x)

    torch.set_default_dtype(torch.float32)
    x = torch.tensor([0.0, 50.0], requires_grad=True)
    log_p = Functions(disagreeing).log_prob(x)
    torch.testing.assert_close(log_p, torch.tensor([-5000.0, -2500.0]) - math.log(2 * math.pi))
    assert torch.autograd.grad(log_p.sum(), x)[0].isfinite().all()


def test_log_prob_without_latents_and_with_a_continuous_one():
    x = torch.randn(4)

    def no_latents(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(1.0, 2.0), obs=x)

    torch.testing.assert_close(Functions(no_latents).log_prob(x), normal(x, 1.0, 2.0))
    with pytest.raises(NotImplementedError, match=r"latent site 'z' cannot be summed out.*log_evidence"):
        Functions(mixture_prior, guide).log_prob(x)


# Sampling and reconstructing.


def test_samples_of_a_discrete_model(assert_mean):
    pair = Functions(chain)
    pair.check(torch.randn(3, 2))
    samples = pair.sample(20_000)
    assert_mean(samples["x0"], PRIOR @ MEANS)
    assert_mean(samples["x1"], PRIOR @ TRANSITION @ MEANS)
    assert_mean(samples["x0"] * samples["x1"], (PRIOR * MEANS) @ TRANSITION @ MEANS)


def test_reconstruction_averages_over_a_summed_site():
    x = torch.randn(4)
    responsibilities = (PRIOR.log() + normal(x[:, None], MEANS, 1.0)).softmax(1)
    torch.testing.assert_close(Functions(single).reconstruct(x), responsibilities @ MEANS)


def test_reconstruction_of_a_chain_averages_over_each_sites_own_posterior():
    """Pyro gives the sites of a Markov chain the same two dims in turn: here they must not be mixed up."""
    x = 2 * torch.randn(4, 5)
    values = list(itertools.product(range(3), repeat=5))
    posterior = torch.stack([chain_log_joint(x)(*cs) for cs in values]).softmax(0)
    exact = torch.einsum("cb,ct->tb", posterior, MEANS[torch.tensor(values)])
    found = Functions(chain).reconstruct(x)
    torch.testing.assert_close(torch.stack([found[f"x{t}"] for t in range(5)]), exact)


def test_reconstruction_of_vectors_and_of_sites_without_discrete_parents():
    def mixed(x, y):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(PRIOR))
            pyro.sample("x", dist.Normal(MEANS[c][..., None] * torch.ones(2), 1.0).to_event(1), obs=x)
            pyro.sample("y", dist.Normal(4.0, 1.0), obs=y)

    x, y = torch.randn(4, 2), torch.randn(4)
    found = Functions(mixed).reconstruct((x, y), num_particles=2)
    responsibilities = (PRIOR.log() + normal(x[:, None], MEANS[:, None], 1.0).sum(-1)).softmax(1)
    torch.testing.assert_close(found["x"], (responsibilities @ MEANS)[:, None].expand(4, 2))
    torch.testing.assert_close(found["y"], torch.full((4,), 4.0))
