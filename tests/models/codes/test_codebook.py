"""The dictionary: running averages, k-means, restarts, cosine codes, several codebooks."""

import pytest
import torch
from torch.nn.functional import normalize

from ppvae.models import VQVAE, Codebook
from ppvae.models.codes.code_vectors import looked_up, nearest, squared_distances

pytestmark = pytest.mark.usefixtures("float64")


def assigned(h, codes):
    """One step of k-means by hand, of vectors `[N, D]`; an empty code stays."""
    which = (h[:, None] - codes).square().sum(-1).argmin(1)
    return torch.stack([h[which == k].mean(0) if (which == k).any() else e for k, e in enumerate(codes)])


@pytest.mark.parametrize("num_codebooks", [1, 3])
def test_distances_and_vectors_are_those_of_each_positions_codebook(num_codebooks):
    codes, h = torch.randn(num_codebooks, 5, 2), torch.randn(7, 4, 3, 2)
    by_hand = (h.unsqueeze(-2) - codes.expand(3, 5, 2)).square().sum(-1)
    torch.testing.assert_close(squared_distances(h, codes), by_hand)
    index = nearest(h, codes)
    assert torch.equal(index, by_hand.argmin(-1))
    for n in range(3):
        assert torch.equal(looked_up(codes, index)[..., n, :], codes.expand(3, 5, 2)[n][index[..., n]])


def test_running_averages_with_decay_zero_are_a_step_of_k_means():
    codebook, h = Codebook(6, 2, decay=0.0), torch.randn(40, 3, 2)
    expected = assigned(h.flatten(0, 1), codebook.weight[0])
    codebook.train()(h)
    torch.testing.assert_close(codebook.weight[0], expected)


def test_running_averages_start_at_one_vector_at_each_code():
    codebook, h = Codebook(6, 2, decay=0.9), torch.randn(40, 3, 2)
    before, flat = codebook.weight[0].clone(), h.flatten(0, 1)
    which = nearest(flat[:, None], codebook.weight)[:, 0]
    codebook.train()(h)
    for k in range(6):
        own = flat[which == k]
        expected = (0.9 * before[k] + 0.1 * own.sum(0)) / (0.9 + 0.1 * len(own))
        torch.testing.assert_close(codebook.weight[0, k], expected)


def test_an_unused_code_stays_however_long():
    codebook = Codebook(2, 2, decay=0.5)
    codebook.weight.copy_(torch.tensor([[[0.0, 0.0], [50.0, 50.0]]]))
    codebook.sums.copy_(codebook.weight)
    for _ in range(1200):  # 2^-1200 is no number
        codebook.train()(torch.randn(4, 1, 2))
    torch.testing.assert_close(codebook.weight[0, 1], torch.tensor([50.0, 50.0]))


def test_in_evaluation_nothing_moves():
    codebook = Codebook(4, 2, decay=0.5)
    before = codebook.weight.clone()
    codebook.eval()(torch.randn(9, 3, 2))
    assert torch.equal(codebook.weight, before)


def test_codebooks_of_positions_learn_from_these_alone():
    codebook, h = Codebook(4, 2, num_codebooks=3, decay=0.0), torch.randn(50, 3, 2)
    expected = [assigned(h[:, n], codebook.weight[n]) for n in range(3)]
    codebook.train()(h)
    torch.testing.assert_close(codebook.weight, torch.stack(expected))


@pytest.mark.parametrize("decay", [None, 0.9])
def test_the_start_is_a_fixed_point_of_k_means_that_finds_far_clusters(decay):
    centers = torch.tensor([[-9.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
    h = (centers[torch.arange(60) % 3] + 0.1 * torch.randn(60, 2)).unsqueeze(1)
    codebook = Codebook(12, 2, decay=decay)
    codebook.init_from(h)
    torch.testing.assert_close(assigned(h[:, 0], codebook.weight[0].detach()), codebook.weight[0].detach())
    assert squared_distances(h, codebook.weight).amin(-1).mean() < 0.05
    if decay is not None:
        assert torch.equal(codebook.sums, codebook.weight)
        assert (codebook.sizes == 1).all()


def test_dead_codes_are_those_that_all_data_leave_unused():
    pair, x = VQVAE.mlp(5, 2, 8, 2, [4], "gaussian", decay=0.9), torch.randn(30, 5)
    pair.codebook.weight[0, 3:5] = 100.0
    before, used = pair.codebook.weight.clone(), pair.usage(x)
    assert used.sum() == 60
    assert (used[0, 3:5] == 0).all()
    assert pair.restart_dead_codes(x) == int((used == 0).sum())
    alive = used[0] > 0
    assert torch.equal(pair.codebook.weight[0, alive], before[0, alive])
    h = pair.encoder(x).flatten(0, 1)
    assert all((h == e).all(-1).any() for e in pair.codebook.weight[0, ~alive])
    assert (pair.usage(x)[0] > 0).all()


@pytest.mark.parametrize("decay", [None, 0.9])
def test_no_two_codes_are_placed_at_one_vector(decay):
    """Nor one where a code is already; what cannot be placed stays where it is."""
    vectors, codebook = torch.randn(3, 2), Codebook(8, 2, decay=decay)
    before, h = codebook.weight[0].clone(), vectors[torch.arange(40) % 3].unsqueeze(1)
    codebook.init_from(h)
    found = codebook.weight[0]
    torch.testing.assert_close(found[:3].sort(0).values, vectors.sort(0).values)
    assert torch.equal(found[3:], before[3:])
    codebook.weight.data[0, :3] = vectors
    dead = codebook.counts(h) == 0
    assert codebook.place(dead, h) == 0
    assert codebook.place(dead, torch.cat([h, h + 1])) == 3
    assert len(codebook.weight[0].unique(dim=0)) == 8


def test_cosine_codes_are_the_nearest_in_angle():
    codebook, h = Codebook(6, 3, cosine=True), 10 * torch.randn(20, 2, 3)
    q = codebook(h)
    assert torch.equal(q.index, (normalize(h, dim=-1) @ normalize(codebook.weight[0], dim=-1).T).argmax(-1))
    torch.testing.assert_close(q.mean.norm(dim=-1), torch.ones(20, 2))


def test_vectors_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"h: found shape \[4, 3, 5\], expected \[..., n, 2\], with 2 positions"):
        Codebook(3, 2, num_codebooks=2).init_from(torch.zeros(4, 3, 5))
