"""Pairs of data and labels against closed forms, row by row, with and without a label."""

import pyro.distributions as dist
import pytest
import torch
from support.linear_labels import (
    PRIOR,
    SIGMA,
    C,
    D,
    F,
    batch,
    conditional,
    features_with_labels,
    given_covariates,
    partly_labeled_mixture,
    stacked,
    with_labels,
)
from support.zoo_pairs import gaussian

import ppvae
from ppvae.inference.objectives.weighting import weighted
from ppvae.models import M2, ConditionalVAE, GaussianMixture

pytestmark = pytest.mark.usefixtures("float64")


def test_conditional_evidence_is_that_of_x_given_labels_and_covariates():
    """The exact guide's weights are all log p(x | c), whatever is drawn."""
    pair, (x, y, _) = conditional(), batch()
    for c, vectors in ((y, torch.eye(C)[y]), (torch.randn(len(x), C),) * 2):
        exact = given_covariates(pair.likelihood, D, vectors).log_prob(x)
        torch.testing.assert_close(pair.log_weights((x, c), 5).log_w, exact.expand(5, -1))


def test_conditional_samples_are_of_the_chosen_labels():
    pair, label = conditional(), torch.tensor([2]).expand(4000)
    marginal = given_covariates(pair.likelihood, D, torch.eye(C)[2])
    drawn = pair.sample((torch.full((4000, F), 9.0), label))
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - marginal.loc).abs() < 4 * error).all()


@pytest.mark.parametrize("label", [-1, C])
def test_a_label_that_is_no_class_is_refused(label):
    with pytest.raises(ValueError, match=f"labels: found .* to .*, expected whole numbers from 0 to {C - 1}"):
        conditional().log_weights((torch.zeros(2, F), torch.tensor([0, label])))


def test_one_covariate_is_a_column():
    """Real numbers `[B]` might be one covariate, or labels of another type."""
    pair, x, c = ConditionalVAE.mlp(F, D, num_covariates=1, likelihood="gaussian"), torch.zeros(3, F), torch.randn(3)
    with pytest.raises(ValueError, match=r"c: found real numbers of shape \[B\].*pass c.unsqueeze\(1\) for one"):
        pair.log_weights((x, c))
    assert pair.log_weights((x, c.unsqueeze(1))).log_w.shape == (1, 3)


def mixture_of(pair):
    """The Gaussian mixture that an M2 with linear parts is."""
    component = given_covariates(pair.likelihood, D, torch.eye(C))
    mixture = GaussianMixture(C, F, "tied")
    return mixture.assign(weights=PRIOR, means=component.loc.detach(), covariances=component.covariance_matrix[0])


def test_partly_labeled_mixture_has_no_gap_in_any_row():
    """log p(x) without a label is the mixture's own, log p(x, y) with one a component's; so are all weights."""
    pair, data = partly_labeled_mixture(), batch()
    x, y, known = data
    mixture = mixture_of(pair)
    log_joint = mixture.log_prob(x)[:, None] + mixture.responsibilities(x).log()
    exact = with_labels(log_joint, y, known)
    torch.testing.assert_close(pair.log_weights(data, 20).log_w, exact.expand(20, -1))
    torch.testing.assert_close(ppvae.EnumeratedELBO()(pair, data)[0], exact)
    torch.testing.assert_close(ppvae.log_evidence(pair, data, "iwae", seed=0, progress=False).estimate, exact)
    torch.testing.assert_close(pair.classify(x), mixture.responsibilities(x))


def test_what_stands_in_place_of_a_missing_label_does_not_matter():
    pair, (x, y, known) = partly_labeled_mixture(), batch()
    other = torch.where(known, y, (y + 1) % C)
    values = [ppvae.EnumeratedELBO()(pair, (x, label, known))[0] for label in (y, other)]
    torch.testing.assert_close(*values)


def test_stacked_evidence_is_that_of_a_mixture():
    pair, (_, y, known) = stacked(), batch()
    torch.manual_seed(1)
    x = pair.sample_joint((torch.zeros(6, 4), y, known))["x"]
    m2, W, b = pair.m2, pair.vae.likelihood.network.weight, pair.vae.likelihood.network.bias
    upper = given_covariates(m2.likelihood, D, torch.eye(C))
    covariance = W @ upper.covariance_matrix[0] @ W.T + SIGMA**2 * torch.eye(len(W))
    component = gaussian(upper.loc @ W.T + b, covariance)
    exact = with_labels(PRIOR.log() + component.log_prob(x[:, None]), y, known)
    with torch.no_grad():
        found = ppvae.log_evidence(pair, (x, y, known), "iwae", 20000, seed=0, progress=False)
    assert found.std_error.max() < 0.05
    assert ((found.estimate - exact).abs() < 4 * found.std_error).all()


def test_features_with_labels_are_the_vae_where_the_label_is_missing():
    """And where it is not, log p(x) + log E_p(z | x) p(y | z), by a grid over z."""
    pair, (x, y, known) = features_with_labels(), batch()
    posterior, z = pair.vae.posterior(x), torch.linspace(-12, 12, 20001)[:, None, None]
    alone = pair.vae.log_weights(x).log_w[0]
    log_y = pair.classifier(z).log_prob(y)
    averaged = (posterior.log_prob(z) + log_y).logsumexp(0) + (z[1] - z[0]).log().squeeze()
    exact = alone + torch.where(known, averaged, 0.0)
    weights = pair.log_weights((x, y, known), 4000)
    torch.testing.assert_close(weights.log_w[:, ~known], exact[~known].expand(4000, -1))
    found = ppvae.log_evidence(pair, (x, y, known), "iwae", 4000, seed=0, progress=False)
    assert ((found.estimate - exact).abs()[known] < 4 * found.std_error[known]).all()
    expected = (posterior.log_prob(z).exp().unsqueeze(-1) * pair.classifier(z).probs).sum(0) * (z[1] - z[0])
    error = 4 * 0.5 / 20000**0.5  # a probability's standard deviation is 1/2 at most
    assert (pair.classify(x, 20000) - expected).abs().max() < error


def test_simulated_labels_follow_their_prior():
    pair = partly_labeled_mixture()
    drawn = pair.sample_joint((torch.zeros(4000, F), torch.zeros(4000, dtype=torch.long), torch.zeros(4000) > 0))
    share = torch.bincount(drawn["y"], minlength=C) / 4000
    assert ((share - PRIOR).abs() < 4 * (PRIOR * (1 - PRIOR) / 4000).sqrt()).all()
    component = given_covariates(pair.likelihood, D, torch.eye(C)).loc
    mean = drawn["x"] - component[drawn["y"]]
    assert (mean.mean(0).abs() < 4 * mean.std(0) / 4000**0.5).all()


def gradient(pair, surrogate):
    parameters = [p for p in pair.parameters() if p.requires_grad]
    found = torch.autograd.grad(surrogate, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def test_semi_supervised_gradient_is_that_of_the_bound_and_the_known_labels():
    """With the same draws, the two differ by the gradient of the weighted mean of log q(y | x) over known labels."""
    torch.manual_seed(0)
    pair, (x, y, known) = M2.mlp(F, D, C, [4], "gaussian"), batch()
    torch.manual_seed(1)
    plain, of_bound = ppvae.EnumeratedELBO(2)(pair, (x, y, known))
    torch.manual_seed(1)
    value, surrogate = ppvae.SemiSupervisedELBO(2, weight=3.0)(pair, (x, y, known))
    assert torch.equal(value, plain)
    log_q = pair.classifier(x).log_prob(y)
    term = 3.0 * torch.where(known, log_q, 0.0).mean()
    torch.testing.assert_close(surrogate - of_bound, term)
    torch.testing.assert_close(gradient(pair, surrogate), gradient(pair, of_bound + term))


def test_semi_supervised_gradient_counts_rows_by_their_weights():
    pair, data = partly_labeled_mixture(), batch()
    weights = torch.tensor([2.0, 0.0, 1.0, 1.0, 0.0, 2.0])
    objective = ppvae.SemiSupervisedELBO(weight=3.0)
    with weighted(weights, objective):
        value, surrogate = objective(pair, data)
    x, y, known = data
    expected = value + 3.0 * torch.where(known, pair.classifier(x).log_prob(y), 0.0)
    torch.testing.assert_close(surrogate, (weights * expected).mean())


def test_semi_supervised_gradient_through_codes_of_m1_and_m2():
    """The guide's label hangs on z1, which is drawn: the term is the mean over these draws."""
    pair, (_, y, known) = stacked(), batch()
    x = torch.randn(6, 4)
    torch.manual_seed(1)
    of_bound = ppvae.EnumeratedELBO(3)(pair, (x, y, known))[1]
    torch.manual_seed(1)
    surrogate = ppvae.SemiSupervisedELBO(3, weight=2.0)(pair, (x, y, known))[1]
    torch.manual_seed(1)
    z1 = pair.latents((x, y, known), 3)["z1"]
    log_q = pair.m2.classifier(z1).log_prob(y)
    torch.testing.assert_close(surrogate - of_bound, 2.0 * torch.where(known, log_q, 0.0).mean())


def test_above_a_frozen_vae_the_gradient_is_that_of_an_m2_of_drawn_codes():
    """So M1+M2 can be trained on codes, without data."""
    pair, (_, y, known) = stacked(), batch()
    x, objective = torch.randn(6, 4), ppvae.SemiSupervisedELBO(weight=2.0)
    pair.vae.requires_grad_(False)
    torch.manual_seed(1)
    expected = gradient(pair, objective(pair, (x, y, known))[1])
    torch.manual_seed(1)
    z1 = pair.vae.posterior(x).sample()
    found = gradient(pair.m2, objective(pair.m2, (z1, y, known))[1])
    torch.testing.assert_close(found, expected)


def test_labels_without_an_exact_guide_leave_a_bound():
    """A wrong classifier costs its divergence from the responsibilities, in rows without a label alone."""
    pair, data = partly_labeled_mixture(), batch()
    x, _, known = data
    with torch.no_grad():
        pair.classifier.network.bias += torch.tensor([1.0, 0.0, -1.0])
    responsibilities = mixture_of(pair).responsibilities(x)
    divergence = torch.distributions.kl_divergence(pair.classifier(x), dist.Categorical(responsibilities))
    exact = ppvae.log_evidence(partly_labeled_mixture(), data, "iwae", 1, seed=0, progress=False).estimate
    bound = ppvae.EnumeratedELBO()(pair, data)[0]
    torch.testing.assert_close(exact - bound, torch.where(known, 0.0, divergence))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32])
def test_a_mask_of_labels_may_be_ones_and_zeros(dtype):
    torch.manual_seed(0)
    pair, x, y, known = M2.mlp(5, 2, 3), torch.rand(4, 5).round(), torch.tensor([0, 1, 2, 0]), torch.arange(4) < 3
    found = []
    for mask in (known, known.to(dtype)):
        torch.manual_seed(0)
        found.append(ppvae.EnumeratedELBO()(pair, (x, y, mask))[0])
    assert torch.equal(*found)


def test_a_missing_label_is_no_number_of_its_own():
    y, known = torch.tensor([0, 1, 2, -1]), torch.arange(4) < 3
    with pytest.raises(ValueError, match="if these are labels, number them from 0, and put any of them where one is"):
        ppvae.elbo(M2.mlp(5, 2, 3), (torch.rand(4, 5).round(), y, known), progress=False)
