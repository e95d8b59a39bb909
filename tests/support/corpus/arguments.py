"""What Pyro's users pass besides rows, and how they wrap models."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam
from support.corpus.closed_forms import latent_normal
from support.corpus.entry import Program, refused, runs
from support.corpus.networks import NormalEncoder, perceptron
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


class OptionsVAE(nn.Module):
    """An annealing factor, switches and names among the arguments; model and guide take the same ones."""

    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = perceptron(2, 5, 4), NormalEncoder(4, 2)

    def likelihood(self, z, heavy_tails, noise):
        loc = self.decoder(z)
        return dist.StudentT(4.0, loc, noise) if heavy_tails else dist.Normal(loc, noise)

    def model(self, x, annealing_factor=1.0, heavy_tails=False, noise=1.0, name="x", weights=None):
        pyro.module("vae", self)
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=annealing_factor):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            likelihood = self.likelihood(z, heavy_tails, noise).to_event(1)
            if weights is not None:
                likelihood = likelihood.mask(weights > 0)
            pyro.sample(name, likelihood, obs=x)

    def guide(self, x, annealing_factor=1.0, heavy_tails=False, noise=1.0, name="x", weights=None):
        pyro.module("vae", self)
        with pyro.plate("data", len(x)), poutine.scale(scale=annealing_factor):
            pyro.sample("z", dist.Normal(*self.encoder(x)).to_event(1))

    def log_evidence(self, x, heavy_tails, noise):
        return latent_normal(lambda z: self.likelihood(z, heavy_tails, noise), 2)(x)


@runs("leading")
def annealing_factor_by_position():
    vae, data = OptionsVAE(), (torch.randn(4, 4), 0.3)
    return Program(vae.model, vae.guide, data, data, lambda data: vae.log_evidence(data[0], False, 1.0))


@runs("leading")
def annealing_factor_as_a_tensor():
    """A tensor without dimensions is no row."""
    vae, data = OptionsVAE(), {"x": torch.randn(4, 4), "annealing_factor": torch.tensor(0.3)}
    return Program(vae.model, vae.guide, data, data, lambda data: vae.log_evidence(data["x"], False, 1.0))


@runs("leading")
def switches_numbers_names_and_none():
    vae = OptionsVAE()
    data = {"x": torch.randn(4, 4), "heavy_tails": True, "noise": 0.8, "name": "observed", "weights": None}
    return Program(vae.model, vae.guide, data, data, lambda data: vae.log_evidence(data["x"], True, 0.8))


@runs("leading")
def modules_as_arguments():
    """Networks among the arguments; they are the pair's to train."""
    decoder, encoder = perceptron(1, 4, 3), NormalEncoder(3, 1)

    def model(x, decoder, encoder):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x, decoder, encoder):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))

    data = torch.randn(4, 3), decoder, encoder
    exact = latent_normal(lambda z: dist.Normal(decoder(z), 1.0), 1)
    return Program(model, guide, data, data, lambda data: exact(data[0]))


@runs("leading")
def model_conditioned_on_its_data():
    """The model only generates; a lambda conditions it on what was seen."""
    weight = 0.6 * torch.randn(1, 3)

    def generate(num):
        with pyro.plate("data", num):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight, 1.0).to_event(1))

    def guide(x):
        readout = pyro.param("readout", 0.3 * weight.T)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ readout, 0.8).to_event(1))

    def model(x):
        return pyro.condition(generate, data={"x": x})(len(x))

    x = torch.randn(4, 3)
    return Program(model, guide, x, x, latent_normal(lambda z: dist.Normal(z @ weight, 1.0), 1))


@runs("leading")
def model_reparameterized():
    """Effects of rows, decentered by a handler: the guide's latent is the standardized one."""

    def centered(y, sigma):
        tau = pyro.param("tau", torch.tensor(1.5), constraint=dist.constraints.positive)
        with pyro.plate("schools", len(y)):
            theta = pyro.sample("theta", dist.Normal(0.5, tau))
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    def guide(y, sigma):
        with pyro.plate("schools", len(y)):
            pyro.sample("theta_decentered", dist.Normal(0.5 * (y - 0.5), 0.7))

    def exact(data):
        return dist.Normal(0.5, (1.5**2 + data[1] ** 2).sqrt()).log_prob(data[0])

    model = poutine.reparam(centered, {"theta": LocScaleReparam(centered=0.0)})
    data = torch.randn(5), 0.5 + torch.rand(5)
    return Program(model, guide, data, data, exact)


def sequence_program(last_hidden, x):
    """A latent of each sequence, which a recurrent network reads; `last_hidden` is given the network and x."""
    rnn, head, weight = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 2), torch.tensor([[0.8, -0.5]])

    def totals(x):
        return (pad_packed_sequence(x, batch_first=True)[0] if isinstance(x, PackedSequence) else x).sum(1)

    def model(x, *lengths):
        with pyro.plate("data", len(totals(x))):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("total", dist.Normal(z @ weight, 1.0).to_event(1), obs=totals(x))

    def guide(x, *lengths):
        pyro.module("rnn", rnn)
        pyro.module("head", head)
        with pyro.plate("data", len(totals(x))):
            loc, log_scale = head(last_hidden(rnn, x, *lengths)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    exact = latent_normal(lambda z: dist.Normal(z @ weight, 1.0), 1)
    return Program(model, guide, x, x, lambda data: exact(totals(data[0])))


def padded_sequences():
    lengths = torch.tensor([3, 2, 1])
    return torch.randn(3, 3, 2) * (torch.arange(3) < lengths[:, None]).unsqueeze(-1), lengths


def padded(program):
    """Rows of one length, their lengths beside them; the guide packs them itself."""

    def last_hidden(rnn, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return rnn(packed)[1].squeeze(0)

    return sequence_program(last_hidden, padded_sequences())


@refused("PackedSequence.*pad", padded, "leading")
def packed_sequences():
    """A PackedSequence has its rows interleaved: none can be taken out."""
    x, lengths = padded_sequences()
    packed = pack_padded_sequence(x, lengths, batch_first=True)
    return sequence_program(lambda rnn, x: rnn(x)[1].squeeze(0), packed)
