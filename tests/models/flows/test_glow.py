import pytest
import torch

import ppvae
from ppvae import datasets
from ppvae.models import Glow
from ppvae.models.flows.actnorm import ActNorm
from ppvae.models.flows.glow import Unfold
from ppvae.models.flows.transforms import fresh


def norms(flow):
    return [module for module in flow.modules() if isinstance(module, ActNorm)]


def test_init_from_normalizes_each_channel_at_every_depth():
    """Each normalization meets the data as those before it leave them."""
    flow = Glow((1, 8, 8), num_levels=3, num_steps=2, num_hidden=4)
    for p in flow.parameters():
        p.data += 0.1 * torch.randn(p.shape)
    x = 3 + 2 * torch.rand(500, 1, 8, 8)
    flow.init_from(x)
    seen = []
    for norm in norms(flow):
        original = norm.pull
        norm.pull = lambda x, original=original: (seen.append(original(x)), seen[-1])[1]
    with torch.no_grad():
        flow.log_prob(x)
    assert len(seen) == len(norms(flow)) == 6
    for z, _ in seen:
        std, mean = torch.std_mean(z, (0, 2, 3), correction=0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-4, rtol=0)
        torch.testing.assert_close(std, torch.ones_like(std), atol=1e-4, rtol=0)


def test_init_from_survives_a_constant_channel():
    norm = ActNorm(2, 1, 1)
    norm.init_from(torch.cat([torch.ones(5, 1, 2, 2), torch.randn(5, 1, 2, 2)], 1))
    z, log_det = norm.pull(torch.ones(5, 2, 2, 2))
    assert z.isfinite().all()
    assert log_det.isfinite().all()


def test_levels_halve_what_goes_on():
    """Of 64 numbers 32 are noise after the first level, 16 after the second; the deepest is the image's coarsest."""
    flow = Glow((1, 8, 8), num_levels=3, num_steps=1, num_hidden=4)
    assert sorted(norm.loc.shape[0] for norm in norms(flow)) == [4, 8, 16]
    assert flow.base().event_shape == (64,)


def test_unfold_takes_blocks_of_pixels():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    folded = Unfold().inv(x)
    assert folded.shape == (1, 4, 2, 2)
    assert folded[0, :, 0, 0].tolist() == [0, 1, 4, 5]
    assert torch.equal(fresh([Unfold()], training=False)[0](folded), x)


@pytest.mark.slow(90)
def test_glow_learns_digits():
    """Better than the best Gaussian, of any covariance, by far."""
    data = datasets.load("digits", images=True, dequantize=True)
    x, test = data.transform(data.train), data.test
    flow = Glow((1, 8, 8), num_levels=2, num_steps=4, num_hidden=32).init_from(x)
    ppvae.fit(flow, data.train, transform=data.transform, steps=600, batch_size=100, lr=2e-3, progress=False)
    vectors = x.flatten(1).double()
    gaussian = torch.distributions.MultivariateNormal(vectors.mean(0), torch.cov(vectors.T))
    with torch.no_grad():
        bits = [
            datasets.bits_per_dim(log_p.mean(), data.num_features, levels=17)
            for log_p in (flow.log_prob(test), gaussian.log_prob(test.flatten(1).double()))
        ]
    assert bits[0] < bits[1] - 0.2, bits
