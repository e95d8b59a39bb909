"""Labels that are known for all rows, for some, or for none."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from support.corpus.closed_forms import latent_normal
from support.corpus.entry import Program, runs
from support.corpus.networks import Joined, NormalEncoder, perceptron
from torch import nn

CLASSES = 3
PRIOR = [0.2, 0.3, 0.5]


class LabelledVAE(nn.Module):
    """Labels and styles are latents; where labels are given they are observed."""

    def __init__(self):
        super().__init__()
        self.encoder_y = nn.Sequential(perceptron(4, 5, CLASSES), nn.Softmax(dim=-1))
        self.encoder_z = Joined(NormalEncoder(4 + CLASSES, 1))
        self.decoder = Joined(perceptron(1 + CLASSES, 5, 4))

    def model(self, xs, ys=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data", xs.size(0)):
            zs = pyro.sample("z", dist.Normal(xs.new_zeros(xs.size(0), 1), xs.new_ones(xs.size(0), 1)).to_event(1))
            ys = pyro.sample("y", dist.OneHotCategorical(torch.tensor(PRIOR).to(xs)), obs=ys)
            pyro.sample("x", dist.Normal(self.decoder(zs, ys), 0.8).to_event(1), obs=xs)

    def guide(self, xs, ys=None):
        with pyro.plate("data", xs.size(0)):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(self.encoder_y(xs)))
            pyro.sample("z", dist.Normal(*self.encoder_z(xs, ys)).to_event(1))

    def log_joint(self, xs, label):
        """log p(x, y), `[N]`."""
        y = torch.eye(CLASSES)[label]

        def likelihood(z):
            return dist.Normal(self.decoder(z, y.expand(len(z), CLASSES)), 0.8)

        return torch.tensor(PRIOR)[label].log() + latent_normal(likelihood, 1)(xs)

    def log_evidence(self, data):
        xs, ys = data
        terms = torch.stack([self.log_joint(xs, label) for label in range(CLASSES)], -1)
        return terms.logsumexp(-1) if ys is None else terms[ys.bool()]


@runs("rows")
def semi_supervised_vae_drawing_labels():
    """The unlabelled half of the data: None stands for the labels."""
    vae, data = LabelledVAE(), (torch.randn(5, 4), None)
    return Program(vae.model, vae.guide, data, data, vae.log_evidence)


@runs("rows")
def semi_supervised_vae_enumerating_labels():
    vae, data = LabelledVAE(), (torch.randn(5, 4), None)
    return Program(vae.model, config_enumerate(vae.guide), data, data, vae.log_evidence)


@runs("rows")
def semi_supervised_vae_of_the_labelled():
    """The labelled half: the same functions, one argument more."""
    vae, labels = LabelledVAE(), torch.eye(CLASSES)[torch.tensor([0, 1, 1, 2, 0])]
    data = torch.randn(5, 4), labels
    return Program(vae.model, config_enumerate(vae.guide), data, data, vae.log_evidence)


@runs("leading")
def classifier_with_a_scaled_loss():
    """The auxiliary loss of a semi-supervised VAE: no latents, and a factor that acts in training alone."""
    classify, xs = nn.Sequential(nn.Linear(4, CLASSES), nn.Softmax(dim=-1)), torch.randn(5, 4)
    labels = torch.eye(CLASSES)[torch.tensor([0, 1, 1, 2, 0])]

    def model(xs, ys):
        pyro.module("classify", classify)
        with pyro.plate("data", len(xs)), poutine.scale(scale=46.0):
            pyro.sample("y_aux", dist.OneHotCategorical(classify(xs)), obs=ys)

    def guide(xs, ys):
        pass

    def exact(data):
        return (classify(data[0]) * data[1]).sum(-1).log()

    return Program(model, guide, (xs, labels), (xs, labels), exact, exact)


def component_means():
    return torch.tensor([-2.0, 0.0, 2.5])


def known_or_summed(data):
    """log p(x, y) where y is known, log p(x) where it is not, of a mixture with unit scales."""
    x, y, known = data
    terms = torch.tensor(PRIOR).log() + dist.Normal(component_means(), 1.0).log_prob(x[:, None])
    return torch.where(known, terms.gather(-1, y[:, None]).squeeze(-1), terms.logsumexp(-1))


def partly_labelled():
    return torch.randn(6) * 2, torch.tensor([0, 1, 2, 2, 1, 0]), torch.tensor([True, False, True, False, False, True])


def mixture_with_obs_mask(x, y, known):
    means = pyro.param("means", component_means())
    with pyro.plate("data", len(x)):
        label = pyro.sample("y", dist.Categorical(torch.tensor(PRIOR)), obs=y, obs_mask=known)
        pyro.sample("x", dist.Normal(means[label], 1.0), obs=x)


@runs("leading")
def labels_partly_observed_and_summed_out():
    """`obs_mask` leaves a latent for the rows without a label; the guide has none, so it is summed out."""

    def guide(x, y, known):
        pass

    data = partly_labelled()
    model = config_enumerate(mixture_with_obs_mask)
    return Program(model, guide, data, data, known_or_summed, known_or_summed)


def labels_bound(data, logits):
    """The bound for a guide with `logits`, exact where the label is known."""
    x, _, known = data
    terms = torch.tensor(PRIOR).log() + dist.Normal(component_means(), 1.0).log_prob(x[:, None])
    log_q = logits.log_softmax(-1)
    return torch.where(known, known_or_summed(data), (log_q.exp() * (terms - log_q)).sum(-1))


@runs("leading")
def labels_partly_observed_with_a_guide():
    classify = nn.Linear(1, CLASSES)

    def guide(x, y, known):
        pyro.module("classify", classify)
        with pyro.plate("data", len(x)), poutine.mask(mask=~known):
            pyro.sample("y_unobserved", dist.Categorical(logits=classify(x.unsqueeze(-1))))

    def bound(data):
        return labels_bound(data, classify(data[0].unsqueeze(-1)))

    data = partly_labelled()
    return Program(mixture_with_obs_mask, guide, data, data, known_or_summed, bound)


@runs("leading")
def labels_partly_observed_by_masks():
    """The same by masks that the author wrote: a label that is known is no latent, one that is not is no datum."""
    classify = nn.Linear(1, CLASSES)

    def model(x, y, known):
        prior = dist.Categorical(torch.tensor(PRIOR))
        with pyro.plate("data", len(x)):
            guess = pyro.sample("guess", prior.mask(~known))
            with poutine.mask(mask=known):
                pyro.sample("label", prior, obs=y)
            label = torch.where(known, y, guess)
            pyro.sample("x", dist.Normal(component_means()[label], 1.0), obs=x)

    def guide(x, y, known):
        pyro.module("classify", classify)
        with pyro.plate("data", len(x)):
            pyro.sample("guess", dist.Categorical(logits=classify(x.unsqueeze(-1))).mask(~known))

    def bound(data):
        return labels_bound(data, classify(data[0].unsqueeze(-1)))

    data = partly_labelled()
    return Program(model, guide, data, data, known_or_summed, bound)


@runs("leading")
def missing_covariates_imputed():
    """`obs_mask` on a continuous site: the missing values are latents of a guide with a mask."""

    def model(x, seen, y):
        slope = pyro.param("slope", torch.tensor(0.8))
        with pyro.plate("data", len(x)):
            covariate = pyro.sample("x", dist.Normal(0.5, 1.2), obs=x, obs_mask=seen)
            pyro.sample("y", dist.Normal(slope * covariate, 0.7), obs=y)

    def guide(x, seen, y):
        scale = pyro.param("scale", torch.tensor(0.8), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)), poutine.mask(mask=~seen):
            pyro.sample("x_unobserved", dist.Normal(0.6 * y, scale))

    def exact(data):
        x, seen, y = data
        with_x = dist.Normal(0.5, 1.2).log_prob(x) + dist.Normal(0.8 * x, 0.7).log_prob(y)
        return torch.where(seen, with_x, dist.Normal(0.4, (0.96**2 + 0.49) ** 0.5).log_prob(y))

    seen = torch.tensor([True, False, True, False, True])
    data = torch.randn(5).masked_fill(~seen, 0.0), seen, torch.randn(5)
    return Program(model, guide, data, data, exact)
