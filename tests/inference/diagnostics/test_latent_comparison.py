"""Scores of disentanglement on representations of known worth."""

import numpy as np
import pytest
import torch

import ppvae
from ppvae.datasets import Sprites
from ppvae.inference.diagnostics.factor_information import entropies, information, modularity, mutual_information_gap
from ppvae.inference.diagnostics.factor_prediction import scores_of_uses, separated_attribute_predictability
from ppvae.inference.diagnostics.latent_comparison import SCORES
from ppvae.models import LinearVAE, MarkovHVAE

SIZES = (3, 3, 8, 8, 8)


def factors(num, sizes=SIZES):
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(n, size=num) for n in sizes], 1)


def test_information_is_the_entropy_of_a_copy_and_biased_for_noise():
    v = factors(20_000)
    copy = information(v * 1.0, v)
    np.testing.assert_allclose(copy.diagonal(), entropies(v))
    np.testing.assert_allclose(entropies(v), np.log(SIZES), atol=1e-3)
    # As counted, mutual information of what is independent is (bins - 1)(values - 1) / 2N on average.
    noise = np.random.default_rng(1).uniform(size=(2000, 40))
    found = information(noise, v[:2000]).mean(0)
    expected = 19 * (np.array(SIZES) - 1) / 4000
    np.testing.assert_allclose(found, expected, rtol=0.12)


def test_the_gap_of_perfect_latents_is_biased_as_is_known():
    """Of dSprites' factors themselves, in 20 bins: 0.69, 0.83 and 0.90 at 300, 1000 and 10,000 images."""
    for num, known in ((300, 0.69), (1000, 0.83), (10_000, 0.90)):
        v = factors(num, Sprites().factor_sizes)
        assert mutual_information_gap(v * 1.0, v) == pytest.approx(known, abs=0.015)


def test_the_gap_and_modularity_by_hand():
    v = factors(5000, (4, 4))
    rotated = np.stack([v[:, 0] + v[:, 1], v[:, 0] - v[:, 1]], 1) * 1.0
    assert mutual_information_gap(rotated, v) < 0.02
    assert modularity(rotated, v) < 0.02
    assert modularity(v * 1.0, v) > 0.999
    assert separated_attribute_predictability(rotated, v, (False, False)) < 0.05
    assert separated_attribute_predictability(v * 1.0, v, (False, False)) > 0.99
    twice = np.concatenate([v, v], 1) * 1.0  # each factor in two latents: modular, but no gap
    assert modularity(twice, v) > 0.999
    assert mutual_information_gap(twice, v) == 0


def test_scores_of_uses_by_hand():
    """A latent for two factors, of which each has all of it; and one that is never used."""
    found = scores_of_uses(np.array([[1.0, 1.0], [0.0, 0.0]]))
    assert found == {"disentanglement": pytest.approx(0.0), "completeness": pytest.approx(1.0)}
    half = scores_of_uses(np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    assert half["disentanglement"] == pytest.approx(1.0)
    assert half["completeness"] == pytest.approx(1 - np.log(2) / np.log(3) / 2)


@pytest.mark.slow(12)
def test_the_table_has_perfect_latents_and_noise_beside_the_models():
    sprites = Sprites.small()
    torch.manual_seed(0)
    pair = LinearVAE(256, 5)
    table = ppvae.compare_latents({"untrained": pair}, sprites, 500, 3, seed=0)
    truth, noise, found = (table[name] for name in ("the factors themselves", "noise", "untrained"))
    assert set(found) == set(SCORES)
    for score in ("beta-VAE score", "FactorVAE score"):
        assert truth[score].estimate == 1
        assert abs(noise[score].estimate - 0.2) < 4 * noise[score].std_error + 0.03
    for score in SCORES:
        assert truth[score].estimate > noise[score].estimate + 4 * noise[score].std_error
        assert found[score].std_error > 0


def test_refusals():
    with pytest.raises(ValueError, match=r"found 'two' with latents \['z1', 'z2'\], expected one"):
        ppvae.compare_latents({"two": MarkovHVAE.mlp(256, [2, 2], [4])}, Sprites.small(), 100, 2)
    with pytest.raises(ValueError, match=r"found latents of 'flat' of shape \[100\], expected \[100, D\]"):
        ppvae.compare_latents({"flat": lambda x: x[:, 0]}, Sprites.small(), 100, 2)
    with pytest.raises(ValueError, match=r"found latents of 'diverged', .* numbers of them not finite"):
        ppvae.compare_latents({"diverged": lambda x: x[:, :2] * torch.nan}, Sprites.small(), 100, 2)


def test_one_latent_is_not_said_to_know_nothing():
    cells = ppvae.compare_latents({"one": lambda x: x.sum(1, True)}, Sprites.small(), 100, 2, seed=0)["one"]
    assert {name for name, cell in cells.items() if cell.undefined} == {"completeness"}
    assert cells["completeness"].undefined.startswith("there is one latent")


@pytest.mark.usefixtures("float64")
def test_a_rotation_leaves_the_evidence_and_changes_the_axes():
    """Locatello et al. 2019: with W R in place of W, p(x) stays; what the guide's family pays for the axes does not."""
    torch.manual_seed(0)
    pair = LinearVAE(6, 2)
    basis = torch.linalg.qr(torch.randn(6, 2))[0]
    weight = basis * torch.tensor([2.0, 1.0])  # the factors' directions are orthogonal: so are its columns
    z = torch.randn(2000, 2)
    x = z @ weight.T + torch.randn(2000, 6)
    evidence, correlation, gap = [], [], []
    for degrees in (0, 15, 30, 45):
        a = torch.tensor(degrees * torch.pi / 180)
        turn = torch.stack([torch.stack([a.cos(), -a.sin()]), torch.stack([a.sin(), a.cos()])])
        pair.weight.data = weight @ turn
        pair.fit_guide()
        evidence.append(pair.log_prob(x).mean().item())
        means = pair.encode(x).mean
        correlation.append([torch.stack([means[:, j], z[:, j]]).corrcoef()[0, 1].abs().item() for j in range(2)])
        gap.append(pair.factorized_gap().item())
        # M = W'W + I turns as R'MR, whose diagonal is that of a rotation of diag(5, 2).
        diagonal = torch.stack([5 * a.cos() ** 2 + 2 * a.sin() ** 2, 5 * a.sin() ** 2 + 2 * a.cos() ** 2])
        assert gap[-1] == pytest.approx(((diagonal.log().sum() - torch.tensor(10.0).log()) / 2).item(), abs=1e-12)
    assert evidence == pytest.approx([evidence[0]] * 4, abs=1e-10)
    assert sorted(gap) == gap
    assert gap[0] == pytest.approx(0, abs=1e-12)
    assert gap[-1] == pytest.approx((2 * np.log(3.5) - np.log(10)) / 2)
    for j in range(2):
        of_axis = [c[j] for c in correlation]
        assert sorted(of_axis, reverse=True) == of_axis
        assert of_axis[0] - of_axis[-1] > 0.1
