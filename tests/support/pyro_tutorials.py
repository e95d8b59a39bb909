"""A variational autoencoder and a deep Markov model in the manner of Pyro's own tutorials: Pyro code, no ppvae."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn


class ImageDecoder(nn.Module):
    def __init__(self, z_dim, hidden_dim, num_pixels):
        super().__init__()
        self.hidden = nn.Linear(z_dim, hidden_dim)
        self.out = nn.Linear(hidden_dim, num_pixels)

    def forward(self, z):
        return torch.sigmoid(self.out(nn.functional.softplus(self.hidden(z))))


class ImageEncoder(nn.Module):
    def __init__(self, z_dim, hidden_dim, num_pixels):
        super().__init__()
        self.num_pixels = num_pixels
        self.hidden = nn.Linear(num_pixels, hidden_dim)
        self.loc, self.log_scale = nn.Linear(hidden_dim, z_dim), nn.Linear(hidden_dim, z_dim)

    def forward(self, x):
        h = nn.functional.softplus(self.hidden(x.reshape(-1, self.num_pixels)))
        return self.loc(h), torch.exp(self.log_scale(h))


class TutorialVAE(nn.Module):
    def __init__(self, z_dim=3, hidden_dim=8, num_pixels=16):
        super().__init__()
        self.encoder = ImageEncoder(z_dim, hidden_dim, num_pixels)
        self.decoder = ImageDecoder(z_dim, hidden_dim, num_pixels)
        self.z_dim = z_dim

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = torch.zeros(x.shape[0], self.z_dim, dtype=x.dtype, device=x.device)
            z_scale = torch.ones(x.shape[0], self.z_dim, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            probs = self.decoder.forward(z)
            pyro.sample("obs", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=x.reshape(-1, 16))
            return probs

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = self.encoder.forward(x)
            pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))


class PlainVAE:
    """The same, of a class that is no module."""

    def __init__(self):
        vae = TutorialVAE()
        self.encoder, self.decoder, self.z_dim = vae.encoder, vae.decoder, vae.z_dim

    model, guide = TutorialVAE.model, TutorialVAE.guide


class Emitter(nn.Module):
    def __init__(self, input_dim, z_dim, emission_dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(z_dim, emission_dim), nn.ReLU(), nn.Linear(emission_dim, input_dim))

    def forward(self, z_t):
        return torch.sigmoid(self.net(z_t))


class GatedTransition(nn.Module):
    def __init__(self, z_dim, transition_dim):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(z_dim, transition_dim), nn.ReLU(), nn.Linear(transition_dim, z_dim))
        self.proposed = nn.Sequential(nn.Linear(z_dim, transition_dim), nn.ReLU(), nn.Linear(transition_dim, z_dim))
        self.loc, self.scale = nn.Linear(z_dim, z_dim), nn.Linear(z_dim, z_dim)

    def forward(self, z_t_1):
        gate, proposed = torch.sigmoid(self.gate(z_t_1)), self.proposed(z_t_1)
        loc = (1 - gate) * self.loc(z_t_1) + gate * proposed
        return loc, nn.functional.softplus(self.scale(torch.relu(proposed)))


class Combiner(nn.Module):
    def __init__(self, z_dim, rnn_dim):
        super().__init__()
        self.from_z = nn.Linear(z_dim, rnn_dim)
        self.loc, self.scale = nn.Linear(rnn_dim, z_dim), nn.Linear(rnn_dim, z_dim)

    def forward(self, z_t_1, h_rnn):
        h = 0.5 * (torch.tanh(self.from_z(z_t_1)) + h_rnn)
        return self.loc(h), nn.functional.softplus(self.scale(h))


class DMM(nn.Module):
    def __init__(self, input_dim=5, z_dim=2, rnn_dim=4):
        super().__init__()
        self.emitter = Emitter(input_dim, z_dim, 6)
        self.trans = GatedTransition(z_dim, 6)
        self.combiner = Combiner(z_dim, rnn_dim)
        self.rnn = nn.RNN(input_dim, rnn_dim, batch_first=True)
        self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(z_dim)), nn.Parameter(torch.zeros(z_dim))
        self.h_0 = nn.Parameter(torch.zeros(1, 1, rnn_dim))
        self.annealing_factor = 0.3

    def model(self, mini_batch, mini_batch_reversed, mini_batch_mask):
        T_max = mini_batch.size(1)
        pyro.module("dmm", self)
        z_prev = self.z_0.expand(mini_batch.size(0), self.z_0.size(0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, T_max + 1)):
                z_loc, z_scale = self.trans(z_prev)
                with poutine.scale(scale=self.annealing_factor):
                    z_t = pyro.sample(
                        f"z_{t}", dist.Normal(z_loc, z_scale).mask(mini_batch_mask[:, t - 1 : t]).to_event(1)
                    )
                emission_probs = self.emitter(z_t)
                pyro.sample(
                    f"obs_x_{t}",
                    dist.Bernoulli(emission_probs).mask(mini_batch_mask[:, t - 1 : t]).to_event(1),
                    obs=mini_batch[:, t - 1, :],
                )
                z_prev = z_t

    def guide(self, mini_batch, mini_batch_reversed, mini_batch_mask):
        T_max = mini_batch.size(1)
        pyro.module("dmm", self)
        h_0 = self.h_0.expand(1, mini_batch.size(0), self.rnn.hidden_size).contiguous()
        rnn_output = self.rnn(mini_batch_reversed, h_0)[0].flip(1)
        z_prev = self.z_q_0.expand(mini_batch.size(0), self.z_q_0.size(0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, T_max + 1)):
                z_loc, z_scale = self.combiner(z_prev, rnn_output[:, t - 1, :])
                z_dist = dist.Normal(z_loc, z_scale)
                with poutine.scale(scale=self.annealing_factor):
                    z_t = pyro.sample(f"z_{t}", z_dist.mask(mini_batch_mask[:, t - 1 : t]).to_event(1))
                z_prev = z_t


def sequences():
    lengths = torch.tensor([4, 2, 3])
    mask = (torch.arange(4) < lengths[:, None]).to(torch.get_default_dtype())
    x = torch.bernoulli(torch.full((3, 4, 5), 0.5)) * mask[..., None]
    backwards = torch.stack([torch.cat([s[:n].flip(0), s[n:]]) for s, n in zip(x, lengths, strict=True)])
    return x, backwards, mask


def written_out_log_w(dmm, x, backwards, mask, latents):
    """The masked sequence's log weight with neither scale nor annealing, by hand."""
    h = dmm.rnn(backwards, dmm.h_0.expand(1, 3, 4).contiguous())[0].flip(1)
    log_w, z_p, z_q = 0.0, dmm.z_0.expand(6, 3, 2), dmm.z_q_0.expand(6, 3, 2)
    for t in range(4):
        z = latents[f"z_{t + 1}"]
        log_p = torch.distributions.Normal(*dmm.trans(z_p)).log_prob(z).sum(-1)
        log_q = torch.distributions.Normal(*dmm.combiner(z_q, h[:, t])).log_prob(z).sum(-1)
        log_x = torch.distributions.Bernoulli(dmm.emitter(z)).log_prob(x[:, t]).sum(-1)
        log_w = log_w + mask[:, t] * (log_p + log_x - log_q)
        z_p = z_q = z
    return log_w
