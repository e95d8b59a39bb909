"""The code in the documents runs, as printed, and does what the text says."""

import re
from pathlib import Path

import pytest
import torch

import ppvae

ROOT = Path(__file__).parent.parent


def python_blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def test_the_pair_of_the_guide_is_a_pair():
    names = {}
    exec(python_blocks("docs/pairs.md")[0], names)
    pair = names["PoissonFactors"](num_features=6, num_latents=2)
    x = torch.poisson(torch.full((50, 6), 3.0))
    before = ppvae.elbo(pair, x, seed=0, progress=False).mean().estimate
    ppvae.fit(pair, x, epochs=50, lr=1e-2, progress=False)
    found = ppvae.gap(pair, x, "quick", seed=0, progress=False)
    assert found.elbo.mean().estimate > before + 1
    assert -0.1 < found.mean().estimate < 2
    assert pair.sample(10).shape == pair.reconstruct(x[:10]).shape == (10, 6)


def test_the_parts_of_the_guide_make_a_pair():
    names = {"ppvae": ppvae}
    exec(python_blocks("docs/pairs.md")[2].replace("epochs=300", "steps=3, progress=False"), names)
    vae, x = names["vae"], names["digits"].test[:5]
    assert vae.log_weights(x, num_particles=3).log_w.isfinite().all()
    named = set(re.findall(r"^\|.*?\| .*?\| `(\w+)` \|", (ROOT / "docs/pairs.md").read_text(), re.MULTILINE))
    assert len(named) == 14
    assert named <= set(ppvae.models.__all__)


def test_the_bound_of_the_guide_is_a_bound():
    names = {}
    exec(python_blocks("docs/objectives.md")[2], names)
    pair, x = ppvae.models.LinearVAE(num_features=4, num_latents=2), torch.randn(5, 4)
    for gradient in ("reparameterised", "stl", "score"):
        objective = names["MedianOfMeans"](num_particles=9, gradient=gradient)
        value, _ = objective(pair, x)
        assert value.shape == (5,)
        ppvae.fit(pair, x, objective, steps=3, progress=False)
    ds = ppvae.gradient_statistics(pair, x, [objective], [9], repeats=16, progress=False)
    assert (ds["total_variance"] > 0).all()


@pytest.mark.slow
def test_the_readmes_example_prints_what_it_says(capsys):
    """To the first digits: training differs between processors in the last."""
    code, printed = (
        python_blocks("README.md")[0],
        re.findall(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.S),
    )
    exec(code, {})
    figures = [[float(n) for n in re.findall(r"-?\d+\.\d+", text)] for text in (printed[0], capsys.readouterr().out)]
    assert len(figures[0]) == len(figures[1]) > 5
    for a, b in zip(*figures, strict=True):
        assert a == pytest.approx(b, abs=0.5, rel=0.05)


def test_the_settings_of_the_guide_to_training_train():
    pair, data = ppvae.models.VAE.mlp(4, 2, [8], likelihood="gaussian"), torch.randn(50, 4)
    before = ppvae.elbo(pair, data, seed=0, progress=False).mean()
    exec(python_blocks("docs/training.md")[0], {"ppvae": ppvae, "torch": torch, "pair": pair, "data": data})
    after = ppvae.elbo(pair, data, seed=0, progress=False).mean()
    assert after.estimate > before.estimate + 3 * before.monte_carlo_error
