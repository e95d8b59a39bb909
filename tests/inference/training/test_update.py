"""The end of a step: clipped gradients, averaged parameters, networks in bfloat16."""

import logging

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import ppvae
from ppvae import ELBO, StepOptions
from ppvae.inference.training.mixed_precision import networks, networks_in
from ppvae.models import VAE, Glow, LinearVAE, MarkovHVAE

DATA = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))


def flat(pair):
    return torch.cat([p.detach().flatten() for p in pair.parameters()])


def one_step(**options):
    """The change that a step of gradient descent makes, with rate 1."""
    settings = {"options": StepOptions(**options)}
    torch.manual_seed(0)
    pair = LinearVAE(4, 2)
    before = flat(pair)
    ppvae.fit(pair, DATA, steps=1, batch_size=40, optimizer="sgd", lr=1.0, progress=False, **settings)
    return flat(pair) - before


def test_how_a_parameter_is_stored_does_not_matter():
    """By columns or by rows: fused optimizers step the former by other entries' gradients."""
    flows, x = [], torch.randn(40, 1, 2, 2)
    for by_columns in (False, True):
        torch.manual_seed(0)
        flow = Glow((1, 2, 2), num_levels=1, num_steps=1, num_hidden=2)
        factor = flow.transforms[1].LU
        if by_columns:
            factor.data = factor.data.T.contiguous().T
        assert factor.is_contiguous() != by_columns
        ppvae.fit(flow, x, steps=6, batch_size=20, lr=0.1, progress=False)
        flows.append(flow)
    torch.testing.assert_close(flat(flows[1]), flat(flows[0]), rtol=1e-3, atol=1e-4)


class Table(ppvae.Pair):
    """The likelihood's location is looked up in a table."""

    def __init__(self, sparse):
        super().__init__()
        self.table, self.encoder = nn.Embedding(7, 2, sparse=sparse), nn.Linear(2, 2)

    def model(self, x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + self.table(y), 1.0).to_event(1), obs=x)

    def guide(self, x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.7).to_event(1))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1, "ema": 0.9}], ids=str)
def test_gradients_of_sparse_embeddings_are_those_of_dense_ones(optimizer, options):
    data, found = (DATA[:, :2], torch.arange(40) % 5), []
    for sparse in (False, True):
        torch.manual_seed(0)
        pair = Table(sparse)
        settings = {"options": StepOptions(**options), "optimizer": optimizer, "lr": 0.1}
        ppvae.fit(pair, data, epochs=2, batch_size=10, progress=False, **settings)
        noise = ppvae.gradient_statistics(pair, data, {"elbo": ELBO()}, [1], 20, progress=False)
        found.append((flat(pair), torch.from_numpy(noise.total_variance.values)))
    for dense, sparse in zip(*found, strict=True):
        torch.testing.assert_close(sparse, dense, equal_nan=True)


def test_clipping_shortens_the_gradient_and_keeps_its_direction():
    free = one_step()
    norm = free.norm().item()
    torch.testing.assert_close(one_step(clip_norm=norm / 10), free / 10, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one_step(clip_norm=2 * norm), free)


def trajectory(**settings):
    """The parameters after each step, and what the pair ends as."""
    torch.manual_seed(0)
    pair, seen = LinearVAE(4, 2), []
    seen.append(flat(pair))
    run = ppvae.fit(
        pair, DATA, epochs=20, batch_size=40, lr=0.05, progress=False, callbacks=[lambda _: seen.append(flat(pair))],
        **settings,
    )  # fmt: skip
    return seen, pair, run


@pytest.mark.parametrize("compile", [False, True])
def test_average_of_the_parameters(compile):
    raw, _, _ = trajectory()
    seen, pair, run = trajectory(options=StepOptions(ema=0.6), held_out=DATA, compile=compile)
    torch.testing.assert_close(torch.stack(seen), torch.stack(raw), rtol=1e-4, atol=1e-5)  # training is not disturbed
    average = raw[0]
    for step, parameters in enumerate(raw[1:]):
        decay = min(0.6, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * parameters
    torch.testing.assert_close(flat(pair), average, rtol=1e-4, atol=1e-5)
    _, ended, _ = trajectory()
    ended.load_state_dict(pair.state_dict())
    assert run.history["held_out"][-1] == ppvae.fit(
        ended, DATA, epochs=1, batch_size=40, lr=0.0, held_out=DATA, progress=False
    ).history["held_out"][0]  # fmt: skip


def test_average_is_resumed_and_loaded_from_a_checkpoint(tmp_path):
    path = tmp_path / "checkpoint"

    def train(epochs, **settings):
        torch.manual_seed(0)
        pair = LinearVAE(4, 2)
        ppvae.fit(
            pair,
            DATA,
            epochs=epochs,
            options=StepOptions(clip_norm=1.0, ema=0.9),
            progress=False,
            batch_size=16,
            **settings,
        )
        return pair

    whole = train(6)
    train(3, checkpoint=path)
    loaded = LinearVAE(4, 2)
    ppvae.load(loaded, path)
    assert torch.equal(flat(loaded), flat(train(3)))
    assert torch.equal(flat(train(6, checkpoint=path, resume=True)), flat(whole))
    with pytest.raises(ppvae.CheckpointError, match=r"options\.clip_norm: found 1.0, expected None"):
        ppvae.fit(
            LinearVAE(4, 2),
            DATA,
            epochs=7,
            options=StepOptions(ema=0.9),
            checkpoint=path,
            batch_size=16,
            resume=True,
            progress=False,
        )


class Products(TorchDispatchMode):
    """The types in which matrices were multiplied."""

    def __init__(self):
        super().__init__()
        self.types = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if "mm" in str(func):
            self.types.add(result.dtype)
        return result


class Terms(Messenger):
    """The types of draws and log probabilities."""

    def __init__(self):
        super().__init__()
        self.types = set()

    def _pyro_post_sample(self, msg):
        if msg["name"] in ("x", "z"):
            self.types |= {msg["value"].dtype, msg["fn"].log_prob(msg["value"]).dtype}


@pytest.mark.parametrize(
    "make",
    [lambda: VAE.mlp(4, 2, [8], likelihood="gaussian"), lambda: MarkovHVAE.mlp(4, [3, 2], likelihood="gaussian")],
)
def test_networks_multiply_in_bfloat16_and_densities_stay_in_float32(make):
    pair, products, terms = make(), Products(), Terms()
    with networks_in(torch.bfloat16, networks(pair, DATA), DATA.device), products, terms:
        half, _ = ELBO(kl="monte_carlo")(pair, DATA)
    assert products.types == {torch.bfloat16}
    assert terms.types == {torch.float32}
    with Products() as afterwards:
        ELBO()(pair, DATA)
    assert afterwards.types == {torch.float32}
    assert half.dtype == torch.float32


def test_gradients_in_bfloat16_point_the_same_way():
    torch.manual_seed(0)
    pair, found = VAE.mlp(4, 2, [32], likelihood="gaussian"), []
    for dtype in (None, torch.bfloat16):
        torch.manual_seed(1)
        with networks_in(dtype, networks(pair, DATA), DATA.device):
            torch.manual_seed(2)
            _, surrogate = ELBO()(pair, DATA)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(surrogate, list(pair.parameters()))]))
    assert torch.cosine_similarity(*found, dim=0) > 0.999
    assert not torch.equal(*found)


@pytest.mark.slow(12)
@pytest.mark.parametrize("compile", [False, True])
def test_training_in_bfloat16(compile, caplog):
    ends = []
    for dtype in (None, torch.bfloat16):
        torch.manual_seed(0)
        pair, settings = VAE.mlp(4, 2, [16], likelihood="gaussian"), {"steps": 150, "batch_size": 40, "lr": 0.01}
        with caplog.at_level(logging.WARNING, "ppvae"):
            run = ppvae.fit(
                pair, DATA, options=StepOptions(autocast=dtype), compile=compile, progress=False, **settings
            )
        bounds = torch.from_numpy(run.history["bound_per_step"])
        ends.append((bounds[-50:].mean(), bounds[-50:].std() / 50**0.5))
        assert bounds[-50:].mean() > bounds[:5].mean() + 5 * bounds[:5].std() / 5**0.5
        assert {p.dtype for p in pair.parameters()} == {torch.float32}
    assert not caplog.records
    (full, full_error), (half, half_error) = ends
    assert abs(full - half) < 4 * (full_error**2 + half_error**2) ** 0.5


class Nested(ppvae.Pair):
    """Parts that return distributions, with networks inside, and a network of a network."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Tanh(), nn.Linear(3, 4)))
        self.vae = VAE.mlp(4, 2, [8])

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.vae.prior())
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.vae.posterior(x))


def test_networks_are_the_outermost_modules_that_return_tensors():
    pair = Nested()
    assert networks(pair, DATA) == [pair.decoder, pair.vae.posterior.network]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 0.0}, "clip_norm: found 0.0, expected more than 0"),
        ({"ema": 1.0}, "ema: found 1.0, expected a decay between 0 and 1"),
        ({"clip_norm": "1"}, "clip_norm: found '1', expected more than 0"),
        ({"ema": float("nan")}, "ema: found nan, expected a decay between 0 and 1"),
        ({"autocast": torch.float16}, "autocast: found torch.float16, expected torch.bfloat16 or None"),
        ({"distributed": 3}, "distributed: found 3, expected 'auto', True or False"),
    ],
)
def test_refusals(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        StepOptions(**options)


def test_callbacks_measure_in_full_precision():
    torch.manual_seed(0)
    pair, found = VAE.mlp(4, 2, hidden=[16], likelihood="gaussian"), []

    def measure(run):
        torch.manual_seed(0)
        found.append(pair.log_weights(DATA, 2).log_w.detach())

    options = StepOptions(autocast=torch.bfloat16)
    settings = {"epochs": 2, "lr": 0.0, "progress": False}
    mixed = ppvae.fit(pair, DATA, callbacks=[measure], options=options, **settings)
    measure(mixed)
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[2])
    whole = ppvae.fit(pair, DATA, **settings)
    assert (mixed.history["bound_per_step"] != whole.history["bound_per_step"]).all()
