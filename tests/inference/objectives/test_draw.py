"""The parts of a gradient, held against the same parts written out by hand for a hierarchy with a shared parameter."""

import gc
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from ppvae import CUBO, IWAE, MIWAE, PIWAE, RWS, TVO, VIMCO, Pair, Renyi
from ppvae.inference.diagnostics.chunked_gradient import gradient
from ppvae.inference.objectives.importance_weighted import gain, log_mean_exp
from ppvae.inference.objectives.reweighted import dreamed_log_q

pytestmark = pytest.mark.usefixtures("float64")


class SharedChain(Pair):
    """z2 -> z1 -> x; in the guide z1 depends on z2 too, and both use `shared`."""

    def __init__(self):
        super().__init__()
        self.slope, self.shared, self.log_scale, self.weight = (
            nn.Parameter(torch.tensor(value)) for value in (0.3, 0.2, -0.3, 1.1)
        )

    def model(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.weight * self.shared * z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(self.slope * x, self.log_scale.exp()))
            pyro.sample("z1", dist.Normal(self.slope + self.shared * (z2 + x), self.log_scale.exp()))


def log_q(x, z1, z2, slope, shared, log_scale):
    scale = log_scale.exp()
    return Normal(slope * x, scale).log_prob(z2) + Normal(slope + shared * (z2 + x), scale).log_prob(z1)


def log_p(x, z1, z2, shared, weight):
    return Normal(0.0, 1.0).log_prob(z2) + Normal(weight * shared * z2, 1.0).log_prob(z1) + Normal(z1, 1.0).log_prob(x)


def by_hand(pair, x, noise):
    """`log w` and its three parts, each of which depends on the parameters in one way alone."""
    slope, shared, log_scale, weight = pair.parameters()
    z2 = slope * x + log_scale.exp() * noise[0]
    z1 = slope + shared * (z2 + x) + log_scale.exp() * noise[1]
    fixed = [p.detach() for p in pair.parameters()]
    path = log_p(x, z1, z2, fixed[1], fixed[3]) - log_q(x, z1, z2, *fixed[:3])
    z1, z2 = z1.detach(), z2.detach()
    return path.detach(), log_p(x, z1, z2, shared, weight), path, log_q(x, z1, z2, slope, shared, log_scale)


WEIGHTS = {  # of log p, the path and the score, given log w
    IWAE(6): lambda w: (w.softmax(0), w.softmax(0), -w.softmax(0)),
    IWAE(6, "stl"): lambda w: (w.softmax(0), w.softmax(0), 0 * w),
    IWAE(6, "dreg"): lambda w: (w.softmax(0), w.softmax(0) ** 2, 0 * w),
    VIMCO(6): lambda w: (w.softmax(0), 0 * w, gain(log_mean_exp, w) - w.softmax(0)),
    RWS(6): lambda w: (w.softmax(0), 0 * w, w.softmax(0)),
    MIWAE(3, num_groups=2): lambda w: (grouped(w), grouped(w), -grouped(w)),
    MIWAE(3, "dreg", num_groups=2): lambda w: (grouped(w), 2 * grouped(w) ** 2, 0 * w),
    PIWAE(3, num_groups=2): lambda w: (w.softmax(0), grouped(w), -grouped(w)),
    CUBO(6, n=3): lambda w: (w.softmax(0), 0 * w, 2 * (3 * w).softmax(0)),
    Renyi(6, alpha=0.3): lambda w: ((0.7 * w).softmax(0), (0.7 * w).softmax(0), -(0.7 * w).softmax(0)),
    TVO(6, partition=(0.0, 1.0)): lambda w: (0 * w + 1 / 6, 0 * w, (w - w.mean(0) - 1) / 6),
}


def grouped(log_w):
    return log_w.unflatten(0, (3, 2)).softmax(0).flatten(0, 1) / 2


@pytest.mark.parametrize("objective", WEIGHTS, ids=str)
def test_gradients_are_weighted_parts(objective):
    pair, x = SharedChain(), torch.tensor([-1.0, 0.5, 2.0])
    pyro.set_rng_seed(1)
    ours = torch.autograd.grad(objective(pair, x)[1], list(pair.parameters()))
    pyro.set_rng_seed(1)
    noise = [torch.normal(torch.zeros(6, 3), torch.ones(6, 3)) for _ in range(2)]
    log_w, model, path, score = by_hand(pair, x, noise)
    a, b, c = WEIGHTS[objective](log_w)
    theirs = torch.autograd.grad((a * model + b * path + c * score).sum(0).mean(), list(pair.parameters()))
    torch.testing.assert_close(ours, theirs)


def test_a_weight_that_underflows_for_the_model_still_counts_on_the_path():
    """PIWAE weighs particles for the guide within groups: one without weight overall may lead its group."""
    pair, x = SharedChain(), torch.tensor([400.0])
    pyro.set_rng_seed(4)
    log_w = pair.log_weights(x, 6).log_w
    assert log_w.softmax(0).min() < 1e-40
    pyro.set_rng_seed(4)
    ours = torch.autograd.grad(PIWAE(1, num_groups=6)(pair, x)[1], [pair.slope, pair.log_scale])
    pyro.set_rng_seed(4)
    elbo = torch.autograd.grad(pair.log_weights(x, 6).log_w.mean(), [pair.slope, pair.log_scale])
    torch.testing.assert_close(ours, elbo)  # MIWAE with groups of one is the ELBO


def test_gain_replaces_one_particle_at_a_time():
    log_w = torch.randn(4, 3)
    expected = torch.stack([log_mean_exp(log_w) - log_mean_exp(without(log_w, k)) for k in range(4)])
    torch.testing.assert_close(gain(log_mean_exp, log_w), expected)


def without(log_w, k):
    others = torch.cat([log_w[:k], log_w[k + 1 :]])
    return torch.cat([others, others.mean(0, keepdim=True)])


@pytest.mark.parametrize("objective", [IWAE(12), MIWAE(3, num_groups=4), Renyi(12, alpha=0.3)], ids=str)
def test_chunks_of_particles_give_the_gradient_of_all(objective):
    pair, x = SharedChain(), torch.randn(4)
    pyro.set_rng_seed(2)
    value, ours = gradient(objective, pair, x, list(pair.parameters()), at_once=5)
    pyro.set_rng_seed(2)
    log_w = torch.cat([pair.log_weights(x, size).log_w for size in (4, 4, 4)])
    whole = objective.bound(log_w)
    torch.testing.assert_close(value, whole)
    theirs = torch.autograd.grad(whole.mean(), list(pair.parameters()))
    torch.testing.assert_close(ours, torch.stack(theirs))


@pytest.mark.parametrize("phase", ["wake", "sleep"])
def test_chunks_of_particles_give_both_gradients_of_wake_sleep(phase):
    """Those of all particles at once, with the same noise; the dream follows the last of them."""
    pair, x = SharedChain(), torch.tensor([-1.0, 0.5, 2.0])
    learned = list(pair.parameters())
    pyro.set_rng_seed(1)
    value, ours = gradient(RWS(6, phase=phase), pair, x, learned, at_once=3)
    pyro.set_rng_seed(1)
    chunks = [[torch.normal(torch.zeros(3, 3), torch.ones(3, 3)) for _ in range(2)] for _ in range(2)]
    log_w, model, _, score = by_hand(pair, x, [torch.cat(noise) for noise in zip(*chunks, strict=True)])
    weights = log_w.softmax(0)
    torch.testing.assert_close(value, log_mean_exp(log_w))
    guide = dreamed_log_q(pair, x) if phase == "sleep" else (weights * score).sum(0)
    theirs = torch.autograd.grad(((weights * model).sum(0) + guide).mean(), learned)
    torch.testing.assert_close(ours, torch.stack(theirs))


class Watched(SharedChain):
    """Hangs an object into the graph of each run, to see when it goes."""

    class Sign:
        pass

    def model(self, x):
        with pyro.plate("data", len(x)):
            z1, sign = pyro.sample("z1", dist.Normal(0.0, 1.0)), self.Sign()
            z1.register_hook(lambda gradient, sign=sign: None)
            self.sign = weakref.ref(sign)
            pyro.sample("z2", dist.Normal(z1, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)


@pytest.mark.parametrize("gradient", ["reparameterized", "stl", "dreg"])
def test_the_graph_does_not_hold_itself(gradient):
    """Python's collector cannot see through torch's graph: a cycle would keep every step's tensors for ever."""
    pair = Watched()
    surrogate = IWAE(5, gradient)(pair, torch.randn(4))[1]
    assert pair.sign() is not None
    del surrogate
    gc.collect()
    assert pair.sign() is None
