"""Topic models of documents: local proportions, words as counts."""

import pyro
import pyro.distributions as dist
import torch
from support.corpus.closed_forms import grid, latent_normal, log_integral, standard_normal
from support.corpus.entry import Program, refused, runs
from support.corpus.networks import NormalEncoder, perceptron
from torch import nn
from torch.nn import functional as F  # noqa: N812 (the field's name)


def documents(num, words, vocabulary):
    return torch.multinomial(torch.ones(vocabulary), num * words, True).reshape(num, words)


def counts(docs, vocabulary):
    return F.one_hot(docs, vocabulary).sum(1).to(torch.get_default_dtype())


def log_multinomial(x, probs):
    """The log probability of counts `[V]` for each of `[points, V]`."""
    return (x * probs.log()).sum(-1) + torch.lgamma(x.sum() + 1) - torch.lgamma(x + 1).sum()


class Words:
    """The words' distribution at given topics, as `latent_normal` asks for it."""

    def __init__(self, probs):
        self.probs = probs

    def log_prob(self, row):
        return log_multinomial(row, self.probs)


class TopicDecoder(nn.Module):
    """Topics to words: dropout, no bias, batch norm without weights."""

    def __init__(self, topics, vocabulary):
        super().__init__()
        self.beta = nn.Linear(topics, vocabulary, bias=False)
        self.bn = nn.BatchNorm1d(vocabulary, affine=False)
        self.drop = nn.Dropout(0.2)

    def forward(self, theta):
        return F.softmax(self.bn(self.beta(self.drop(theta))), dim=1)


class TopicEncoder(nn.Module):
    def __init__(self, topics, vocabulary):
        super().__init__()
        self.hidden = nn.Linear(vocabulary, 6)
        self.drop = nn.Dropout(0.2)
        self.loc, self.log_var = nn.Linear(6, topics), nn.Linear(6, topics)
        self.bn_loc = nn.BatchNorm1d(topics, affine=False)

    def forward(self, docs):
        h = self.drop(F.softplus(self.hidden(docs)))
        return self.bn_loc(self.loc(h)), (0.5 * self.log_var(h)).exp()


class ProductOfExperts(nn.Module):
    """Unnormalized topics are normal; softmax takes them to proportions, over dim 1 of a batch of documents."""

    def __init__(self, vocabulary=5, topics=2):
        super().__init__()
        self.topics = topics
        self.encoder, self.decoder = TopicEncoder(topics, vocabulary), TopicDecoder(topics, vocabulary)

    def model(self, docs):
        pyro.module("decoder", self.decoder)
        with pyro.plate("documents", docs.shape[0]):
            loc, scale = docs.new_zeros((docs.shape[0], self.topics)), docs.new_ones((docs.shape[0], self.topics))
            logtheta = pyro.sample("logtheta", dist.Normal(loc, scale).to_event(1))
            probs = self.decoder(F.softmax(logtheta, -1))
            total_count = int(docs.sum(-1).max())
            pyro.sample("obs", dist.Multinomial(total_count, probs), obs=docs)

    def guide(self, docs):
        pyro.module("encoder", self.encoder)
        with pyro.plate("documents", docs.shape[0]):
            pyro.sample("logtheta", dist.Normal(*self.encoder(docs)).to_event(1))


@runs("rows")
def product_of_experts_topics():
    """Documents of several lengths; `total_count` is the longest's."""
    lda, docs = ProductOfExperts(), counts(documents(4, 6, 5), 5)
    docs[1] = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.0])
    lda.decoder(F.softmax(3 * torch.randn(40, 2), -1))
    lda.encoder(docs)

    def exact(docs):
        return latent_normal(lambda z: Words(lda.decoder.eval()(F.softmax(z, -1))), 2)(docs)

    return Program(lda.model, lda.guide, docs, docs, exact, modules=(lda,))


@runs("leading")
def topics_with_a_dirichlet_guide():
    """Proportions are a local Dirichlet; words' topics are summed out by hand."""
    topics, network = torch.tensor([[0.6, 0.2, 0.1, 0.1], [0.1, 0.1, 0.2, 0.6]]), perceptron(4, 5, 2)

    def model(docs):
        words = pyro.param("topic_words", topics, constraint=dist.constraints.simplex)
        with pyro.plate("documents", len(docs)):
            theta = pyro.sample("theta", dist.Dirichlet(torch.tensor([1.5, 1.0])))
            pyro.sample("words", dist.Multinomial(6, theta @ words), obs=docs)

    def guide(docs):
        pyro.module("predictor", network)
        with pyro.plate("documents", len(docs)):
            pyro.sample("theta", dist.Dirichlet(1 + F.softplus(network(docs))))

    def exact(docs):
        def log_joint(t):
            theta = torch.cat([t, 1 - t], -1)
            prior = dist.Dirichlet(torch.tensor([1.5, 1.0])).log_prob(theta)
            return prior[:, None] + torch.stack([log_multinomial(row, theta @ topics) for row in docs], -1)

        return log_integral(log_joint, 0.0, 1.0, 2000)

    docs = counts(documents(4, 6, 4), 4)
    return Program(model, guide, docs, docs, exact)


@runs("leading")
def topics_with_a_logistic_normal():
    """Prior and guide are normal before the stick-breaking transform."""
    topics, network = torch.softmax(torch.randn(3, 4), -1), NormalEncoder(4, 2)

    def model(docs):
        with pyro.plate("documents", len(docs)):
            theta = pyro.sample("theta", dist.LogisticNormal(torch.zeros(2), torch.ones(2)))
            pyro.sample("words", dist.Multinomial(6, theta @ topics), obs=docs)

    def guide(docs):
        pyro.module("network", network)
        with pyro.plate("documents", len(docs)):
            pyro.sample("theta", dist.LogisticNormal(*network(docs)))

    def exact(docs):
        stick_breaking = torch.distributions.StickBreakingTransform()

        def log_joint(z):
            probs = stick_breaking(z) @ topics
            return standard_normal(z)[:, None] + torch.stack([log_multinomial(row, probs) for row in docs], -1)

        points, log_cell = grid(-6.0, 6.0, 100, 2)
        return log_joint(points).logsumexp(0) + log_cell

    docs = counts(documents(4, 6, 4), 4)
    return Program(model, guide, docs, docs, exact)


def words_plate_program():
    """Latent Dirichlet allocation as it is drawn: a plate of words within that of documents."""
    topics, network = torch.tensor([[0.6, 0.2, 0.1, 0.1], [0.1, 0.1, 0.2, 0.6]]), perceptron(4, 5, 2)

    def model(docs):
        with pyro.plate("documents", len(docs), dim=-1):
            theta = pyro.sample("theta", dist.Dirichlet(torch.tensor([1.5, 1.0])))
            with pyro.plate("words", docs.shape[1], dim=-2):
                topic = pyro.sample("topic", dist.Categorical(theta), infer={"enumerate": "parallel"})
                pyro.sample("word", dist.Categorical(topics[topic]), obs=docs.T)

    def guide(docs):
        pyro.module("predictor", network)
        with pyro.plate("documents", len(docs), dim=-1):
            pyro.sample("theta", dist.Dirichlet(1 + F.softplus(network(counts(docs, 4)))))

    docs = documents(4, 6, 4)
    return Program(model, guide, docs, docs), topics


def words_as_one_event(program):
    """The words of a document are one event; their topics are summed out by hand."""
    topics = words_plate_program()[1]

    def model(docs):
        with pyro.plate("documents", len(docs)):
            theta = pyro.sample("theta", dist.Dirichlet(torch.tensor([1.5, 1.0])))
            probs = (theta @ topics).unsqueeze(-2).expand(*theta.shape[:-1], docs.shape[1], 4)
            pyro.sample("word", dist.Categorical(probs).to_event(1), obs=docs)

    def exact(docs):
        def log_joint(t):
            theta = torch.cat([t, 1 - t], -1)
            prior = dist.Dirichlet(torch.tensor([1.5, 1.0])).log_prob(theta)
            log_words = (theta @ topics).log()
            return prior[:, None] + torch.stack([log_words[:, row].sum(-1) for row in docs], -1)

        return log_integral(log_joint, 0.0, 1.0, 2000)

    return program._replace(model=model, log_evidence=exact)


@refused(r"to_event", words_as_one_event, "leading")
def topics_with_a_plate_of_words():
    return words_plate_program()[0]
