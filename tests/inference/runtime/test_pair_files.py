"""A pair from its file, in one line: made as it was, with its parameters, precision and example."""

import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae import CheckpointError, Pair
from ppvae.models import VAE, GaussianMixture, Glow, LinearVAE, MarkovHVAE, RealNVP

X = torch.rand(5, 6).round()

PAIRS = {
    "positional": lambda: LinearVAE(6, 2),
    "named": lambda: GaussianMixture(num_components=3, num_features=6, covariance="diagonal"),
    "class_method": lambda: VAE.mlp(6, 2, (8,), activation=nn.ReLU, prior="mixture", posterior="full"),
    "layers": lambda: MarkovHVAE.mlp(6, [3, 2], hidden=[8]),
    "flow": lambda: RealNVP(6, num_couplings=2, hidden=[4]),
    "shape": lambda: Glow((1, 4, 4), num_levels=1, num_steps=1, num_hidden=4),
}


class Own(Pair):
    """A user's own pair, with plain arguments of every kind."""

    def __init__(self, sizes, *, scale=1.0, names=(), options=None, dtype=torch.float32):
        super().__init__()
        self.sizes, self.scale, self.names, self.options = sizes, scale, names, options
        self.linear = nn.Linear(*sizes, dtype=dtype)
        self.register_buffer("shift", torch.zeros(1))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), self.scale).to_event(1))
            pyro.sample("x", dist.Normal((z + self.shift).expand(*z.shape[:-1], 6), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.linear(x), 1.0).to_event(1))


def assert_same_state(found, pair):
    assert type(found) is type(pair)
    state = found.state_dict()
    assert state.keys() == pair.state_dict().keys()
    for name, t in pair.state_dict().items():
        assert torch.equal(state[name], t)


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_comes_back_in_one_line(name, tmp_path):
    torch.manual_seed(0)
    pair = PAIRS[name]()
    ppvae.save(pair, tmp_path / "pair")
    before = torch.random.get_rng_state()
    found = ppvae.load(tmp_path / "pair")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_same_state(found, pair)
    for copy in (found, pair):
        torch.manual_seed(1)
        copy.drawn = copy.eval().sample(4)
    assert torch.equal(found.drawn, pair.drawn)


def test_a_pair_of_ones_own(tmp_path):
    pair = Own((6, 1), scale=0.5, names=["a", ("b", 2)], options={"deep": {"er": None}}, dtype=torch.float64)
    ppvae.save(pair, str(tmp_path / "pair"))
    found = ppvae.load(str(tmp_path / "pair"))
    assert_same_state(found, pair)
    assert (found.sizes, found.scale, found.names, found.options) == (
        (6, 1),
        0.5,
        ["a", ("b", 2)],
        {"deep": {"er": None}},
    )


def test_precision_and_example_come_back(tmp_path):
    pair = VAE.mlp(6, 2, [8]).double()
    pair.check(X)
    ppvae.save(pair, tmp_path / "pair")
    found = ppvae.load(tmp_path / "pair")
    assert_same_state(found, pair)
    assert torch.equal(found.example, pair.example)


def test_a_checkpoint_of_training_gives_its_pair(tmp_path):
    fitted = ppvae.fit(VAE.mlp(6, 2, [8]), X, epochs=2, checkpoint=tmp_path / "run", progress=False)
    assert_same_state(ppvae.load(tmp_path / "run"), fitted.pair)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_names_of_compiled_modules_are_known(tmp_path):
    pair, plain = VAE.mlp(6, 2, [8]), VAE.mlp(6, 2, [8])
    pair.posterior.network = torch.compile(pair.posterior.network)
    assert any("_orig_mod." in name for name in pair.state_dict())
    ppvae.save(pair, tmp_path / "pair")
    ppvae.load(plain, tmp_path / "pair")
    found = ppvae.load(tmp_path / "pair")
    for other in (plain, found):
        for old, new in zip(pair.state_dict().values(), other.state_dict().values(), strict=True):
            assert torch.equal(old, new)
    with torch.no_grad():
        plain.posterior.network[0].weight.add_(1.0)
    ppvae.save(plain, tmp_path / "pair")
    ppvae.load(pair, tmp_path / "pair")
    assert torch.equal(next(pair.posterior.parameters()), plain.posterior.network[0].weight)


def test_what_a_file_cannot_tell(tmp_path):
    parts = VAE.mlp(6, 2, [8])
    pair = VAE(parts.prior, parts.likelihood, parts.posterior)
    ppvae.save(pair, tmp_path / "pair")
    with pytest.raises(CheckpointError, match=r"modules, functions or tensors were passed.*ppvae\.load\(pair, path\)"):
        ppvae.load(tmp_path / "pair")
    other = VAE.mlp(6, 2, [8])
    assert ppvae.load(other, tmp_path / "pair") is other
    assert_same_state(other, pair)


@pytest.mark.slow(3)
def test_a_class_that_is_not_imported(tmp_path):
    ppvae.save(Own((6, 1)), tmp_path / "pair")
    program = f"import ppvae; ppvae.load({str(tmp_path / 'pair')!r})"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "CheckpointError" in run.stderr
    assert "test_pair_files.Own, which is not known here" in run.stderr
    assert "import the module that defines it first" in run.stderr


def test_a_class_that_has_changed(tmp_path, monkeypatch):
    ppvae.save(Own((6, 1)), tmp_path / "pair")
    monkeypatch.setattr(Own, "__init__", lambda self: Pair.__init__(self))
    with pytest.raises(CheckpointError, match="does not take the arguments in the file"):
        ppvae.load(tmp_path / "pair")


def test_a_path_is_missing():
    with pytest.raises(TypeError, match="path: found none beside LinearVAE"):
        ppvae.load(LinearVAE(6, 2))
