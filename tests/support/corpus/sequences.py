"""Sequences of several lengths: what lies beyond a sequence's end is masked."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.ops.indexing import Vindex
from support.corpus.closed_forms import grid, standard_normal
from support.corpus.entry import Program, runs
from support.corpus.networks import NormalEncoder, perceptron
from torch import nn
from torch.nn import functional as F  # noqa: N812 (the field's name)


def lengths_of(sequences):
    return torch.tensor([4, 2, 3, 1])[: len(sequences)]


class Transition(nn.Module):
    """A gated transition of the latent state."""

    def __init__(self, z_dim):
        super().__init__()
        self.gate, self.proposed = nn.Linear(z_dim, z_dim), nn.Linear(z_dim, z_dim)
        self.scale = nn.Linear(z_dim, z_dim)

    def forward(self, z):
        gate, proposed = torch.sigmoid(self.gate(z)), torch.tanh(self.proposed(z))
        return (1 - gate) * z + gate * proposed, F.softplus(self.scale(proposed)) + 0.2


class DeepMarkov(nn.Module):
    """A state per time step; the guide reads the sequence backwards and combines it with the state before."""

    def __init__(self, z_dim=2, rnn_dim=4, features=3):
        super().__init__()
        self.trans, self.emitter = Transition(z_dim), nn.Sequential(perceptron(z_dim, 4, features), nn.Sigmoid())
        self.from_z, self.head = nn.Linear(z_dim, rnn_dim), NormalEncoder(rnn_dim, z_dim)
        self.rnn = nn.RNN(features, rnn_dim, batch_first=True)
        self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(z_dim)), nn.Parameter(torch.ones(z_dim))
        self.h_0 = nn.Parameter(torch.zeros(1, 1, rnn_dim))

    def model(self, batch, reversed_batch, mask, annealing_factor=1.0):
        pyro.module("dmm", self)
        z_prev = self.z_0.expand(batch.size(0), self.z_0.size(0))
        with pyro.plate("z_minibatch", len(batch)):
            for t in pyro.markov(range(1, batch.size(1) + 1)):
                z_loc, z_scale = self.trans(z_prev)
                with poutine.scale(scale=annealing_factor):
                    prior = dist.Normal(z_loc, z_scale).mask(mask[:, t - 1 : t]).to_event(1)
                    z_t = pyro.sample(f"z_{t}", prior)
                emission = dist.Bernoulli(self.emitter(z_t)).mask(mask[:, t - 1 : t]).to_event(1)
                pyro.sample(f"obs_x_{t}", emission, obs=batch[:, t - 1, :])
                z_prev = z_t

    def guide(self, batch, reversed_batch, mask, annealing_factor=1.0):
        pyro.module("dmm", self)
        h_0 = self.h_0.expand(1, batch.size(0), self.rnn.hidden_size).contiguous()
        rnn_output, _ = self.rnn(reversed_batch, h_0)
        rnn_output = rnn_output.flip(1)
        z_prev = self.z_q_0.expand(batch.size(0), self.z_q_0.size(0))
        with pyro.plate("z_minibatch", len(batch)):
            for t in pyro.markov(range(1, batch.size(1) + 1)):
                loc, scale = self.head(0.5 * (torch.tanh(self.from_z(z_prev)) + rnn_output[:, t - 1]))
                with poutine.scale(scale=annealing_factor):
                    guide = dist.Normal(loc, 0.5 + 0.5 * scale).mask(mask[:, t - 1 : t]).to_event(1)
                    z_prev = pyro.sample(f"z_{t}", guide)


@runs("leading")
def deep_markov_model_with_annealing():
    """Masks from lengths, the reversed sequence as an argument, and an annealing factor that acts in training alone."""
    x = torch.bernoulli(torch.full((4, 4, 3), 0.4))
    mask = (torch.arange(4) < lengths_of(x)[:, None]).to(x.dtype)
    dmm, data = DeepMarkov(), {"batch": x, "reversed_batch": x.flip(1), "mask": mask, "annealing_factor": 0.2}
    return Program(dmm.model, dmm.guide, data, data)


class JoinedStates(DeepMarkov):
    """The same with states that are joined to others along the last dimension, and masks by a handler."""

    def __init__(self):
        super().__init__()
        self.step, self.combine = NormalEncoder(2 + 3, 2), NormalEncoder(2 + 3, 2)

    def model(self, x, lengths):
        pyro.module("dmm", self)
        with pyro.plate("sequences", len(x)):
            z, before = x.new_zeros(len(x), 2), torch.zeros_like(x[:, 0])
            for t in pyro.markov(range(x.size(1))):
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z_{t}", dist.Normal(*self.step(torch.cat([z, before], -1))).to_event(1))
                    pyro.sample(f"x_{t}", dist.Bernoulli(self.emitter(z)).to_event(1), obs=x[:, t])
                before = x[:, t]

    def guide(self, x, lengths):
        pyro.module("dmm", self)
        with pyro.plate("sequences", len(x)):
            z = x.new_zeros(len(x), 2)
            for t in pyro.markov(range(x.size(1))):
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z_{t}", dist.Normal(*self.combine(torch.cat([z, x[:, t]], -1))).to_event(1))


@runs("rows")
def deep_markov_model_joining_states():
    x = torch.bernoulli(torch.full((4, 3, 3), 0.4))
    dmm, data = JoinedStates(), (x, lengths_of(x).clamp(max=3))
    return Program(dmm.model, dmm.guide, data, data)


@runs("leading")
def linear_dynamics_with_lengths():
    """A Gaussian random walk seen with noise; masks by `poutine.mask` for whole time steps."""

    def model(x, lengths):
        step = pyro.param("step", torch.tensor(0.9))
        with pyro.plate("sequences", len(x)):
            z = torch.zeros(len(x))
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z_{t}", dist.Normal(step * z, 0.8))
                    pyro.sample(f"x_{t}", dist.Normal(z, 0.6), obs=x[:, t])

    def guide(x, lengths):
        gain = pyro.param("gain", torch.tensor(0.5))
        with pyro.plate("sequences", len(x)):
            z = torch.zeros(len(x))
            for t in range(x.shape[1]):
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z_{t}", dist.Normal((1 - gain) * 0.9 * z + gain * x[:, t], 0.6))

    def exact(data):
        return torch.stack([of_length(row[:length]) for row, length in zip(*data, strict=True)])

    def of_length(row):
        powers = torch.arange(len(row))[:, None] - torch.arange(len(row))
        response = 0.8 * torch.tril(0.9 ** powers.clamp(min=0))
        covariance = response @ response.T + 0.36 * torch.eye(len(row))
        return dist.MultivariateNormal(torch.zeros(len(row)), covariance).log_prob(row)

    x = torch.randn(4, 4)
    data = x, lengths_of(x)
    return Program(model, guide, data, data, exact)


TRANSITION = [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6]]
TONES = [[0.9, 0.2], [0.3, 0.8], [0.5, 0.1]]


def forward_algorithm(log_emissions, start, transition):
    """log p of a sequence from the log probabilities of its steps' emissions, `[time, states]`."""
    alpha = start.log() + log_emissions[0]
    for log_emission in log_emissions[1:]:
        alpha = (alpha[:, None] + transition.log()).logsumexp(0) + log_emission
    return alpha.logsumexp(0)


def hmm_log_evidence(data):
    sequences, lengths = data
    result = []
    for row, length in zip(sequences, lengths, strict=True):
        tones = dist.Bernoulli(torch.tensor(TONES)).to_event(1)
        emissions = tones.log_prob(row[:length, None])
        result.append(forward_algorithm(emissions, torch.tensor(TRANSITION)[0], torch.tensor(TRANSITION)))
    return torch.stack(result)


def no_guide(*args):
    pass


def hidden_markov_model(num_steps):
    """Of the first order, from state 0; all states are summed out, tones are one event."""

    def model(sequences, lengths):
        probs_x = pyro.param("probs_x", torch.tensor(TRANSITION), constraint=dist.constraints.simplex)
        probs_y = pyro.param("probs_y", torch.tensor(TONES), constraint=dist.constraints.unit_interval)
        with pyro.plate("sequences", len(sequences), dim=-1):
            x = 0
            for t in pyro.markov(range(num_steps(sequences, lengths))):
                with poutine.mask(mask=t < lengths):
                    x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer={"enumerate": "parallel"})
                    pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[x]).to_event(1), obs=sequences[:, t])

    return model


def tones():
    sequences = torch.bernoulli(torch.full((4, 4, 2), 0.5))
    return sequences, lengths_of(sequences)


@runs("leading")
def hidden_markov_model_with_lengths():
    data = tones()
    model = hidden_markov_model(lambda sequences, lengths: sequences.shape[1])
    return Program(model, no_guide, data, data, hmm_log_evidence, hmm_log_evidence)


@runs("leading")
def hidden_markov_model_up_to_the_longest():
    """As many sites as the longest sequence of the batch has steps: a batch of others may have fewer."""
    data = tones()
    model = hidden_markov_model(lambda sequences, lengths: int(lengths.max()))
    return Program(model, no_guide, data, data, hmm_log_evidence, hmm_log_evidence)


@runs("leading")
def hidden_markov_model_with_neural_tones():
    """A network makes each step's tones of the state, all its values at once, and of the tones before."""
    embedding, linear, out = nn.Embedding(3, 4), nn.Linear(2, 4), nn.Linear(4, 2)

    def tones_given(state, before):
        return dist.Bernoulli(logits=out(torch.tanh(2 * embedding(state) + linear(before)))).to_event(1)

    def model(sequences, lengths):
        for name, module in {"embedding": embedding, "linear": linear, "out": out}.items():
            pyro.module(name, module)
        with pyro.plate("sequences", len(sequences), dim=-1):
            state, before = torch.tensor(0), torch.zeros_like(sequences[:, 0])
            for t in pyro.markov(range(sequences.shape[1])):
                with poutine.mask(mask=t < lengths):
                    transition = dist.Categorical(torch.tensor(TRANSITION)[state])
                    state = pyro.sample(f"x_{t}", transition, infer={"enumerate": "parallel"})
                    pyro.sample(f"y_{t}", tones_given(state, before), obs=sequences[:, t])
                before = sequences[:, t]

    def exact(data):
        result = []
        for row, length in zip(*data, strict=True):
            before = torch.cat([torch.zeros(1, 2), row[: length - 1]])
            emissions = tones_given(torch.arange(3), before[:, None]).log_prob(row[:length, None])
            result.append(forward_algorithm(emissions, torch.tensor(TRANSITION)[0], torch.tensor(TRANSITION)))
        return torch.stack(result)

    data = tones()
    return Program(model, no_guide, data, data, exact, exact)


@runs("leading")
def hidden_markov_model_of_second_order():
    """`Vindex` into a table of two states before, within `pyro.markov(..., history=2)`."""
    table = torch.tensor([[[0.8, 0.2], [0.3, 0.7]], [[0.5, 0.5], [0.1, 0.9]]])
    means = torch.tensor([-1.0, 1.5])

    def model(x):
        probs = pyro.param("probs", table, constraint=dist.constraints.simplex)
        with pyro.plate("sequences", len(x)):
            before = last = torch.tensor(0)
            for t in pyro.markov(range(3), history=2):
                state = pyro.sample(f"s_{t}", dist.Categorical(Vindex(probs)[before, last]))
                before, last = last, state
                pyro.sample(f"x_{t}", dist.Normal(means[state], 1.0), obs=x[:, t])

    def exact(x):
        terms = []
        for path in torch.cartesian_prod(*[torch.arange(2)] * 3):
            s = [0, 0, *path.tolist()]
            prior = torch.stack([table[s[t], s[t + 1], s[t + 2]] for t in range(3)]).log().sum()
            terms.append(prior + dist.Normal(means[path], 1.0).log_prob(x).sum(-1))
        return torch.stack(terms).logsumexp(0)

    x = torch.randn(4, 3)
    return Program(model, no_guide, x, x, exact, exact)


@runs("leading")
def hidden_markov_model_with_random_effects():
    """Each individual has a latent of its own, which the guide draws, and states that are summed out."""
    encoder = nn.Linear(3, 1)

    def model(x):
        start, switch = torch.tensor([0.6, 0.4]), torch.tensor([0.2, -1.0])
        with pyro.plate("individuals", len(x)):
            effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
            state = None
            for t in pyro.markov(range(3)):
                if state is None:
                    state = pyro.sample("s_0", dist.Bernoulli(start[1]), infer={"enumerate": "parallel"})
                else:
                    logit = effect + Vindex(switch)[state.long()]
                    state = pyro.sample(f"s_{t}", dist.Bernoulli(logits=logit), infer={"enumerate": "parallel"})
                pyro.sample(f"x_{t}", dist.Normal(2 * state - 1, 1.0), obs=x[:, t])

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("individuals", len(x)):
            pyro.sample("effect", dist.Normal(encoder(x).squeeze(-1), 0.9))

    def exact(x):
        points, log_cell = grid(-6.0, 6.0, 120)
        result = []
        for row in x:
            emissions = dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).log_prob(row[:, None])
            log_p = [given(effect, emissions) for effect in points[:, 0]]
            result.append((torch.stack(log_p) + standard_normal(points)).logsumexp(0) + log_cell)
        return torch.stack(result)

    def given(effect, emissions):
        up = torch.sigmoid(effect + torch.tensor([0.2, -1.0]))
        return forward_algorithm(emissions, torch.tensor([0.6, 0.4]), torch.stack([1 - up, up], -1))

    x = torch.randn(4, 3)
    return Program(model, guide, x, x, exact)


class StepGuide(nn.Module):
    """A recurrent guide of one object after another, as in attend, infer, repeat."""

    def __init__(self, features=3):
        super().__init__()
        self.rnn = nn.RNNCell(features + 2, 5)
        self.presence, self.what = nn.Linear(5, 1), NormalEncoder(5, 1, scale=0.7)


@runs("rows")
def variable_number_of_objects():
    """Objects are present until one is absent; what is absent is masked. The guide joins x and the object before."""
    objects, net = torch.tensor([[1.5, 0.2, -1.0], [-0.3, 1.2, 0.8]]), StepGuide()

    def model(x):
        n = len(x)
        present, canvas = x.new_ones(n, 1), x.new_zeros(n, 3)
        with pyro.plate("data", n):
            for t in range(2):
                present = pyro.sample(f"z_pres_{t}", dist.Bernoulli(0.6 * present).to_event(1))
                what = pyro.sample(f"z_what_{t}", dist.Normal(torch.zeros(n, 1), 1.0).mask(present).to_event(1))
                canvas = canvas + present * what * objects[t]
            pyro.sample("x", dist.Normal(canvas, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("guide", net)
        n = x.size(0)
        hidden, present, what = x.new_zeros(n, 5), x.new_ones(n, 1), x.new_zeros(n, 1)
        with pyro.plate("data", n):
            for t in range(2):
                hidden = net.rnn(torch.cat((x, present, what), -1), hidden)
                presence = dist.Bernoulli(torch.sigmoid(net.presence(hidden)) * present).to_event(1)
                present = pyro.sample(f"z_pres_{t}", presence, infer={"baseline": {"use_decaying_avg_baseline": True}})
                loc, scale = net.what(hidden)
                what = pyro.sample(f"z_what_{t}", dist.Normal(loc, scale).mask(present).to_event(1))

    def exact(x):
        terms = []
        for count, probability in enumerate([0.4, 0.24, 0.36]):
            weight = objects[:count].T
            covariance = weight @ weight.T + torch.eye(3)
            log_p = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)
            terms.append(torch.tensor(probability).log() + log_p)
        return torch.stack(terms).logsumexp(0)

    x = torch.randn(4, 3)
    return Program(model, guide, x, x, exact)
