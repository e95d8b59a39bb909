"""One conversion for training and measuring: floating types follow the pair, integers stay where it runs with them."""

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae.batches import entries, map_batch, with_entries
from ppvae.conversion import data_for, to_pair, types_for
from ppvae.models import (
    M1,
    M2,
    VAE,
    VQVAE,
    GaussianMixture,
    HiddenMarkov,
    LinearGaussianStateSpace,
    LinearModalities,
    LinearVAE,
    TableVAE,
)
from ppvae.sources import is_stream

BINARY = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).gt(0)


class Labeled(ppvae.Pair):
    """`z ~ N(mean of the label, 1)`, `x ~ N(z, 1)`; the label is an index into an embedding or a parameter."""

    def __init__(self, embedding):
        super().__init__()
        self.means, self.embedding = nn.Embedding(4, 6), embedding
        self.encoder = nn.Linear(6, 6)

    def model(self, x, y):
        means = self.means(y) if self.embedding else self.means.weight[y]
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(means, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))


class Switch(ppvae.Pair):
    """Scales bytes by itself, as code for images often does; the mask must be boolean."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 1)

    def model(self, x, mask):
        x = x if x.is_floating_point() else x / 255
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=mask):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(*z.shape, 6), 1.0).to_event(1), obs=x)

    def guide(self, x, mask):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=mask):
            pyro.sample("z", dist.Normal(self.encoder(x if x.is_floating_point() else x / 255)[..., 0], 1.0))


def bernoulli(dtype=torch.float32):
    torch.manual_seed(0)
    return VAE.mlp(6, 2, [8]).to(dtype)


CONSUMERS = {
    "fit": lambda pair, x: ppvae.fit(pair, x, steps=3, batch_size=8, held_out=x, progress=False).history["held_out"],
    "trainer": lambda pair, x: ppvae.Trainer(pair).step(x),
    "log_evidence": lambda pair, x: (
        ppvae.log_evidence(pair, x, "iwae", num_particles=20, seed=0, progress=False).estimate
    ),
    "ais": lambda pair, x: (
        ppvae.log_evidence(pair, x, "ais", annealing=ppvae.AIS(2, 5), seed=0, progress=False).estimate
    ),
    "elbo": lambda pair, x: ppvae.elbo(pair, x, 20, seed=0, progress=False).estimate,
    "gap": lambda pair, x: ppvae.gap(pair, x, "quick", seed=0, progress=False).elbo.estimate,
    "trained gap": lambda pair, x: ppvae.gap(pair, x, "quick", train=x, seed=0, progress=False).elbo.estimate,
    "to_arviz": lambda pair, x: torch.as_tensor(
        ppvae.to_arviz(pair, x, num_samples=3, seed=0, progress=False)["posterior"]["z"].values
    ),
    "reconstruct": lambda pair, x: pair.reconstruct(x).mean(),
    "check": lambda pair, x: pair.check(x) or pair.example,
    "picture": lambda pair, x: ppvae.pictures.reconstructions(plt.figure().gca(), pair, x, (2, 3)),
}
KINDS = {
    "float64": BINARY.double(),
    "half": BINARY.half(),
    "bytes": BINARY.byte(),
    "integers": BINARY.long(),
    "booleans": BINARY,
    "array": BINARY.numpy(),
    "doubles of NumPy": BINARY.numpy().astype(">f8"),
}


def marked(name):
    seconds = {"ais": 9, "gap": 25, "trained gap": 30}.get(name)
    return pytest.param(name, marks=pytest.mark.slow(seconds) if seconds else [])


@pytest.mark.parametrize("name", [marked(name) for name in CONSUMERS])
def test_every_kind_of_data_gives_what_the_pairs_own_type_gives(name):
    """Those that take long are given a pair of one type, and data of two."""
    long = name in ("ais", "gap", "trained gap")
    for own in (torch.float32,) if long else (torch.float32, torch.float64):
        torch.manual_seed(1)
        expected = CONSUMERS[name](bernoulli(own), BINARY.to(own))
        for kind in ("float64", "bytes") if long else KINDS:
            torch.manual_seed(1)
            found = CONSUMERS[name](bernoulli(own), KINDS[kind])
            if expected is not None:
                assert np.array_equal(found, expected), (own, kind)
    plt.close("all")


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_whole_numbers_are_measured_as_floats_are(likelihood):
    torch.manual_seed(0)
    pair = VAE.mlp(6, 2, [8], likelihood=likelihood)
    found, expected = (ppvae.elbo(pair, x, 5, seed=0, progress=False).estimate for x in (BINARY, BINARY.float()))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("embedding", [True, False])
@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_indices_stay_indices(embedding, kind):
    """Bytes too, which torch would take for a mask."""
    pair, x, y = Labeled(embedding), torch.randn(8, 6).double(), torch.arange(8) % 4
    batch = to_pair(data_for(pair, (x, y.to(kind))), pair)
    assert batch[0].dtype == torch.float32
    assert not batch[1].is_floating_point()
    assert torch.equal(batch[1].long(), y)
    found = ppvae.elbo(pair, (x, y.to(kind)), 5, seed=0, progress=False).estimate
    assert torch.equal(found, ppvae.elbo(pair, (x.float(), y), 5, seed=0, progress=False).estimate)
    ppvae.fit(pair, (x, y.to(kind)), steps=2, progress=False)


def test_what_runs_with_whole_numbers_is_given_them():
    pair = Switch()
    batch = torch.randint(0, 256, (5, 6), dtype=torch.uint8), torch.tensor([True, False, True, True, False])
    assert types_for(pair, batch) == {"0": torch.uint8, "1": torch.bool}
    found, expected = (
        ppvae.elbo(pair, (x, batch[1]), 5, seed=0, progress=False).estimate for x in (batch[0], batch[0] / 255)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_pyro_functions_are_converted_too(kind):
    network = nn.Linear(6, 1)

    def model(x):
        pyro.module("network", network)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Bernoulli(logits=z.unsqueeze(-1).expand(*z.shape, 6)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(network(x)[..., 0], 1.0))

    pair = ppvae.Pair.of(model, guide, KINDS[kind])
    assert pair.example.dtype == torch.float32
    expected = ppvae.elbo(pair, BINARY.float(), 5, seed=0, progress=False).estimate
    assert torch.equal(ppvae.elbo(pair, KINDS[kind], 5, seed=0, progress=False).estimate, expected)


class Normed(Labeled):
    """With running statistics that each run changes in training mode."""

    def __init__(self):
        super().__init__(True)
        self.encoder = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 6))


def test_finding_out_changes_nothing():
    """Neither generators nor running statistics, nor the mode."""
    torch.manual_seed(0)
    pair = Normed()
    before = torch.get_rng_state(), {name: t.clone() for name, t in pair.state_dict().items()}
    assert types_for(pair, (BINARY, torch.zeros(20).byte())) == {"0": torch.float32, "1": torch.int64}
    assert torch.equal(torch.get_rng_state(), before[0])
    assert pair.training
    assert all(torch.equal(t, before[1][name]) for name, t in pair.state_dict().items())


def test_a_pair_without_parameters_keeps_the_datas_type():
    class Fixed(ppvae.Pair):
        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    assert to_pair(data_for(Fixed(), x), Fixed()).dtype == torch.float64
    found = ppvae.log_evidence(Fixed(), x, "iwae", num_particles=2, progress=False).estimate
    torch.testing.assert_close(found, dist.Normal(torch.zeros((), dtype=torch.float64), 2**0.5).log_prob(x))


def spoiled(x):
    return x.mul_(0).add_(torch.rand_like(x)).bernoulli_()


class Spoiling(LinearVAE):
    """Writes over what it is given."""

    def model(self, x):
        super().model(x.clone())
        x.fill_(7.0)

    def guide(self, x):
        super().guide(x.clone())
        x.fill_(7.0)


@pytest.mark.slow(8)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch_size", [8, 20])
def test_the_callers_data_stay_as_they_are(kind, batch_size):
    x = torch.rand(20, 6, dtype=kind)
    array, before = x.clone().numpy(), x.clone()
    for data in (x, array, iter(x.split(8)), torch.utils.data.TensorDataset(x)):
        steps = {"steps": 3} if is_stream(data) else {"epochs": 2}
        ppvae.fit(bernoulli(), data, batch_size=batch_size, transform=spoiled, held_out=BINARY, progress=False, **steps)
    pair = Spoiling(num_features=6, num_latents=2)
    ppvae.Trainer(pair).step(x)
    ppvae.fit(pair, x, steps=1, held_out=x, progress=False)
    ppvae.elbo(pair, x, 2, progress=False)
    ppvae.gap(bernoulli(), x.round(), "quick", train=x, transform=spoiled, progress=False)
    pair.reconstruct(x)
    assert torch.equal(x, before)
    assert np.array_equal(array, before.numpy())


# Covariates and categories, a little off


@pytest.mark.parametrize("embedding", [True, False])
def test_a_label_out_of_range_is_named(embedding):
    x, y = torch.randn(20, 6), torch.arange(20) % 4
    pair = Labeled(embedding)
    pair.check((x, y))
    with pytest.raises(IndexError) as error:
        ppvae.elbo(pair, (x, y + 1), progress=False)
    assert error.value.__notes__[0].startswith("data[1]: found whole numbers from 1 to 4; where they are indices")


def test_a_label_that_is_left_out_or_one_for_all_is_named():
    x, y = torch.randn(20, 6), torch.arange(20) % 4
    pair = Labeled(True)
    pair.check((x, y))
    for data in (x, (x, 1)):
        with pytest.raises(ppvae.ContractError, match="pass a tensor with a value for each data point as '1'"):
            ppvae.elbo(pair, data, progress=False)


def test_draws_of_a_number_say_whose_labels_they_have(caplog):
    x, y = torch.randn(20, 6), torch.arange(20) % 4
    pair = Labeled(True)
    pair.check((x, y))
    pair.sample((torch.zeros_like(x), y))
    assert not caplog.messages
    pair.sample(5)
    assert caplog.messages == ["sample: all 5 share data[1] of pair.example; give a batch for others"]
    LinearVAE(6, 2).sample(5)
    assert len(caplog.messages) == 1


def test_grades_from_one_to_five():
    """They are integers where the pair takes floating numbers, and outside its support: that is what is said."""
    grades = torch.arange(60).reshape(20, 3) % 5 + 1
    vae = VAE.mlp(3, 2, likelihood="ordinal", levels=5)
    with pytest.raises(ppvae.ContractError, match="if these are categories or grades, number them from 0"):
        ppvae.fit(vae, grades, epochs=1, progress=False)
    with pytest.raises(ValueError, match="from 1 to 5, expected whole numbers from 0 to 4; pass x - 1"):
        vae.init_from(grades)
    with pytest.raises(ValueError, match="set levels= to the number of categories"):
        vae.init_from(grades * 2)


ARRAY = np.random.default_rng(0).random((20, 3)).round(1)
LABELED = (torch.tensor(ARRAY).float(), torch.arange(20) % 3, torch.arange(20) < 10)
LENGTHS = np.array([5, 0, 3, 1])
OF_ARRAYS = {
    "VAE.init_from": (lambda: VAE.mlp(3, 2, [4], "gaussian"), "init_from", ARRAY),
    "M1.classify": (lambda: M1.mlp(3, 2, 3, [4], "gaussian"), "classify", ARRAY),
    "M2.classify": (lambda: M2.mlp(3, 2, 3, [4], "gaussian"), "classify", ARRAY),
    "M2.init_from": (lambda: M2.mlp(3, 2, 3, [4], "gaussian"), "init_from", ARRAY),
    "VQVAE.codes": (lambda: VQVAE.mlp(3, 2, 3, 2, [4]), "codes", ARRAY.round()),
    "LinearVAE.log_prob": (lambda: LinearVAE(3, 2), "log_prob", ARRAY),
    "HiddenMarkov.log_prob": (lambda: HiddenMarkov(2, 3), "log_prob", (ARRAY.reshape(4, 5, 3), LENGTHS)),
    "HiddenMarkov.exact_elbo": (lambda: HiddenMarkov(2, 3), "exact_elbo", (ARRAY.reshape(4, 5, 3), LENGTHS)),
    "HiddenMarkov.init_from": (lambda: HiddenMarkov(2, 3), "init_from", ARRAY.reshape(4, 5, 3)),
    "StateSpace.log_prob": (lambda: LinearGaussianStateSpace(3, 2), "log_prob", (ARRAY.reshape(4, 5, 3), LENGTHS)),
    "StateSpace.exact_elbo": (lambda: LinearGaussianStateSpace(3, 2), "exact_elbo", ARRAY.reshape(4, 5, 3)),
    "StateSpace.exact_gap": (lambda: LinearGaussianStateSpace(3, 2), "exact_gap", {"x": ARRAY.reshape(4, 5, 3)}),
    "GaussianMixture.exact_elbo": (lambda: GaussianMixture(2, 3), "exact_elbo", ARRAY),
    "VQVAE.log_prob": (lambda: VQVAE.mlp(3, 2, 3, 2, [4]), "log_prob", ARRAY.round()),
    "VQVAE.exact_elbo": (lambda: VQVAE.mlp(3, 2, 3, 2, [4]), "exact_elbo", ARRAY.round()),
    "VQVAE.best_elbo": (lambda: VQVAE.mlp(3, 2, 3, 2, [4]), "best_elbo", ARRAY.round()),
    "LinearModalities.log_prob": (lambda: LinearModalities({"a": 3}, 2), "log_prob", {"a": ARRAY}),
    "LinearModalities.exact_elbo": (lambda: LinearModalities({"a": 3}, 2), "exact_elbo", {"a": ARRAY}),
    "MultimodalVAE.init_from": (lambda: LinearModalities({"a": 3}, 2), "init_from", {"a": ARRAY}),
    "MultimodalVAE.hide_at_random": (lambda: LinearModalities({"a": 3}, 2), "hide_at_random", {"a": ARRAY}),
}


def of_type(dtype, t):
    return t.to(dtype) if t.is_floating_point() else t


@pytest.mark.parametrize("name", OF_ARRAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arrays_are_taken_where_tensors_are(name, dtype):
    """Of the pair's precision, whatever theirs."""
    make, method, x = OF_ARRAYS[name]
    found = []
    own = torch.float64 if method == "hide_at_random" else dtype  # which returns the data as they are
    for data in (x, with_entries(x, [of_type(own, torch.tensor(t)) for t in entries(x).values()])):
        torch.manual_seed(0)
        pair = make().to(dtype)
        result = getattr(pair, method)(data)
        found.append(result.state_dict() if isinstance(result, ppvae.Pair) else result)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", ["HiddenMarkov.log_prob", "StateSpace.log_prob", "LinearModalities.log_prob"])
def test_what_is_known_exactly_is_known_of_checked_data(name):
    """Of data that are no batch of the pair's, nothing; of others of another type, the same, with gradients in them."""
    make, method, x = OF_ARRAYS[name]
    log_prob = getattr(make(), method)
    tensors = with_entries(x, [torch.tensor(t) for t in entries(x).values()])
    first = next(iter(entries(tensors).values())).requires_grad_()
    log_prob(tensors).sum().backward()
    assert first.grad.isfinite().all()
    assert first.grad.any()
    with pytest.raises(ValueError, match="found nan at index"):
        log_prob(map_batch(lambda t: torch.full_like(t, torch.nan, dtype=torch.float), tensors))
    with pytest.raises(ValueError, match="found 0 data points, expected at least 1"):
        log_prob(map_batch(lambda t: t[:0], tensors))


def test_a_table_and_what_is_there_may_be_arrays():
    columns = {"age": "real", "smokes": "binary"}
    x, present = np.array([[30.0, 1.0], [40.0, 0.0], [0.0, 1.0]]), np.array([[True, True], [True, True], [False, True]])
    found = []
    for data in ((x, present), (torch.tensor(x).float(), torch.tensor(present))):
        torch.manual_seed(0)
        found.append(TableVAE.mlp(columns, 2, [4]).init_from(*data).state_dict())
    torch.testing.assert_close(*found)


def test_what_is_no_array_of_numbers_is_named():
    with pytest.raises(TypeError, match="x: found ndarray of dtype <U1, expected a tensor or a numeric array"):
        VAE.mlp(3, 2).init_from(np.array(["a", "b"]))
    with pytest.raises(ValueError, match=r"x, at index \[0, 0\]: found nan"):
        VAE.mlp(1, 2).init_from(np.array([[np.nan]]))
