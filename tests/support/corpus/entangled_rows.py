"""Programs that are no programs of rows: a row's log probability depends on the others, or a plate is too many."""

import pyro
import pyro.distributions as dist
import torch
from support.corpus.closed_forms import latent_normal, log_integral, standard_normal
from support.corpus.entry import Program, refused
from support.corpus.networks import NormalEncoder
from torch import nn


def decoded_by(decoder):
    encoder, x = NormalEncoder(3, 2), torch.randn(4, 3)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.7).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))

    return Program(model, guide, x, x, latent_normal(lambda z: dist.Normal(decoder(z), 0.7), 2))


def softmax_of_each_row(program):
    return decoded_by(nn.Sequential(nn.Linear(2, 3), nn.Softmax(dim=-1)))


@refused("(?i)other rows", softmax_of_each_row, "leading")
def softmax_over_the_batch():
    return decoded_by(nn.Sequential(nn.Linear(2, 3), nn.Softmax(dim=0)))


def statistics_of_training(program):
    """Batch norm with running statistics: in evaluation they are constants."""
    decoder = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    decoder(torch.randn(50, 2))
    return decoded_by(decoder.eval())


@refused("(?i)other rows", statistics_of_training, "rows")
def batch_norm_without_running_statistics():
    """In evaluation too it takes the mean and variance of the batch."""
    return decoded_by(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False)))


def response_theory(items_as_event):
    """Abilities and items; responses in a plate of students and one of items, or items as an event."""
    difficulty, slope = [-0.5, 0.2, 1.0], 1.3

    def model(responses):
        with pyro.plate("students", len(responses), dim=-1):
            ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
            if items_as_event:
                logits = slope * (ability.unsqueeze(-1) - torch.tensor(difficulty))
                pyro.sample("responses", dist.Bernoulli(logits=logits).to_event(1), obs=responses)
            else:
                with pyro.plate("items", 3, dim=-2):
                    logits = slope * (ability - torch.tensor(difficulty).unsqueeze(-1))
                    pyro.sample("responses", dist.Bernoulli(logits=logits), obs=responses.T)

    def guide(responses):
        with pyro.plate("students", len(responses), dim=-1):
            pyro.sample("ability", dist.Normal(responses.mean(-1) - 0.5, 0.9))

    def exact(responses):
        def log_joint(z):
            items = dist.Bernoulli(logits=slope * (z.unsqueeze(-1) - torch.tensor(difficulty)))
            return standard_normal(z)[:, None] + items.log_prob(responses).sum(-1)

        return log_integral(log_joint, -6.0, 6.0, 400)

    x = torch.bernoulli(torch.full((4, 3), 0.5))
    return Program(model, guide, x, x, exact)


def items_as_one_event(program):
    return response_theory(items_as_event=True)


@refused("to_event", items_as_one_event, "leading")
def response_theory_with_crossed_plates():
    return response_theory(items_as_event=False)
