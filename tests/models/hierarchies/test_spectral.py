"""Singular values by power iteration against the decomposition, and what holding them down does to training."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import ppvae
from ppvae.models import ConvolutionalHVAE, SpectralNorms


def network():
    """Two layers whose weights have the same shape, two that have their own, and a batch norm."""
    alike = [nn.Conv2d(5, 5, 3) for _ in range(2)]
    return nn.Sequential(nn.Conv2d(3, 5, 3), *alike, nn.BatchNorm2d(5), nn.Conv2d(5, 5, 1, groups=5))


def singular_values(network):
    """The largest of each convolution's weight as a matrix, by decomposition."""
    weights = [m.weight.detach().flatten(1) for m in network.modules() if isinstance(m, nn.Conv2d)]
    return torch.stack([torch.linalg.svdvals(w)[0] for w in weights])


@pytest.mark.usefixtures("float64")
def test_the_sum_and_its_gradient_are_those_of_the_decomposition():
    layers = network()
    layers[3].weight.data = torch.tensor([0.1, -3.0, 0.2, 1.0, 0.3])
    norms = SpectralNorms(layers, iterations=500)
    found = norms(layers)
    torch.testing.assert_close(found, singular_values(layers).sum() + 3.0)
    convolutions = [m for m in layers if isinstance(m, nn.Conv2d)]
    for module, gradient in zip(
        convolutions, torch.autograd.grad(found, [m.weight for m in convolutions]), strict=True
    ):
        U, _, V = torch.linalg.svd(module.weight.flatten(1), full_matrices=False)
        torch.testing.assert_close(gradient.flatten(1), torch.outer(U[:, 0], V[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("float64")
def test_few_iterations_fall_short_and_catch_up():
    layers = network()
    norms = SpectralNorms(layers, iterations=1)
    for m in layers:
        m.weight.data = torch.randn_like(m.weight)
    exact = singular_values(layers).sum() + layers[3].weight.abs().max()
    estimates = torch.stack([norms(layers).detach() for _ in range(300)])
    assert (estimates < exact + 1e-12).all()
    assert estimates[0] < exact - 0.01
    torch.testing.assert_close(estimates[-1], exact)


def test_evaluation_leaves_the_vectors_alone():
    layers = network()
    norms = SpectralNorms(layers).eval()
    for m in layers:
        m.weight.data = torch.randn_like(m.weight)
    assert torch.equal(norms(layers), norms(layers))


@pytest.mark.slow(3)
def test_training_with_the_penalty_lowers_the_singular_values_and_no_bound():
    x, found = torch.rand(16, 1, 4, 4).round(), {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        pair = ConvolutionalHVAE((1, 4, 4), [1], num_latents=1, channels=2, num_cells=1, spectral_weight=weight)
        before = singular_values(pair)
        run = ppvae.fit(pair, x, steps=60, batch_size=16, lr=1e-2, progress=False)
        found[weight] = singular_values(pair) - before, run.history["bound_per_step"]
    assert found[1.0][0].mean() < -0.1
    assert found[1.0][0].mean() < found[0.0][0].mean() - 0.1
    assert found[1.0][1][0] == pytest.approx(found[0.0][1][0], abs=1e-5)  # the first bound, of the same pair


def settled(spectral_weight):
    """A small pair after so many iterations that its penalty is exact, with batch norms of all scales."""
    pair = ConvolutionalHVAE((1, 4, 4), [1], num_latents=1, channels=2, num_cells=1, spectral_weight=spectral_weight)
    for module in pair.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            module.weight.data.normal_()
    for _ in range(75):
        pair.penalty()
    return pair


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("weight", [0.01, 3.0])
def test_the_penalty_is_the_weight_times_the_sum_of_singular_values_by_numpy(weight):
    pair = settled(weight)
    total = 0.0
    for module in pair.modules():
        if isinstance(module, nn.Conv2d):
            matrix = module.weight.detach().numpy().reshape(len(module.weight), -1)
            total += np.linalg.svd(matrix, compute_uv=False)[0]
        elif isinstance(module, nn.BatchNorm2d) and module.affine:
            total += np.abs(module.weight.detach().numpy()).max()
    assert pair.penalty().item() == pytest.approx(weight * total, rel=1e-6)


@pytest.mark.usefixtures("float64")
def test_a_step_of_training_takes_the_penalty_off_once():
    """A step of plain gradient descent moves each layer by `-lr weight u v'` more than one without the penalty does."""
    weight, lr = 0.5, 0.1
    pair, x = settled(weight), torch.rand(16, 1, 4, 4).round()
    without = copy.deepcopy(pair)
    without.spectral_weight = 0.0
    before = [m.weight.detach().numpy() for m in copy.deepcopy(pair).modules() if isinstance(m, nn.Conv2d)]
    for each in (pair, without):
        ppvae.fit(each, x, steps=1, batch_size=16, optimizer=torch.optim.SGD, lr=lr, compile=False, progress=False)
    moved = [
        (m.weight - n.weight).detach().flatten(1).numpy()
        for m, n in zip(pair.modules(), without.modules(), strict=True)
        if isinstance(m, nn.Conv2d)
    ]
    for start, difference in zip(before, moved, strict=True):
        U, _, V = np.linalg.svd(start.reshape(len(start), -1), full_matrices=False)
        np.testing.assert_allclose(difference, -lr * weight * np.outer(U[:, 0], V[0]), atol=1e-4)
