"""Simulated data against the distributions they are drawn from."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support.zoo import ZOO
from torch import nn

import ppvae
from ppvae import ContractError, Pair
from ppvae.models import LinearVAE
from ppvae.simulation import simulate
from ppvae.unconditioned import draw_jointly


def test_data_and_latents_are_drawn_jointly(float64, assert_mean):
    pair = LinearVAE(num_features=4, num_latents=2)
    x, latents = simulate(pair, torch.zeros(20_000, 4))
    marginal, posterior = pair.marginal(), pair.posterior(x)
    assert_mean(x.detach(), pair.mean.detach())
    assert_mean((x[:, :, None] * x[:, None, :]).detach(), marginal.covariance_matrix.detach())
    whitened = torch.linalg.solve_triangular(
        posterior.scale_tril.expand(len(x), -1, -1), (latents["z"] - posterior.loc)[..., None], upper=False
    )[..., 0].detach()  # standard normal, whatever x
    assert_mean(whitened, 0.0)
    assert_mean(whitened[:, :, None] * whitened[:, None, :], torch.eye(2))
    assert_mean(whitened[:, :, None] * x[:, None, :], 0.0)


class Autoregressive(Pair):
    """`x_t ~ N(x_{t-1} + z + shift, 1)`: observes slices, and reads what it has observed before."""

    def model(self, x, shift):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
            before = torch.zeros(())
            for t in range(x.shape[1]):
                pyro.sample(f"x{t}", dist.Normal(before + z + shift, 1.0), obs=x[:, t])
                before = x[:, t]

    def guide(self, x, shift):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(()), 2.0))


def test_slices_are_filled_in_turn_and_covariates_kept(assert_mean):
    batch = {"x": torch.zeros(20_000, 3), "shift": torch.full((20_000,), 5.0)}
    found, latents = simulate(Autoregressive(), batch)
    assert torch.equal(found["shift"], batch["shift"])
    assert batch["x"].eq(0).all()  # untouched
    steps = found["x"].diff(dim=1, prepend=torch.zeros(20_000, 1)) - latents["z"][:, None]
    assert_mean(steps, 5.0)
    assert_mean((steps - 5).square(), 1.0)


def test_samples_read_the_data_that_were_drawn_before_them(assert_mean):
    """What `simulate` draws, `sample` does: by number and by batch."""
    batch = {"x": torch.full((20_000, 3), 9.0), "shift": torch.full((20_000,), 5.0)}
    pair = Autoregressive()
    pair.check(batch)
    for at in (batch, 20_000):
        drawn = pair.sample_joint(at)
        x = torch.stack([drawn[f"x{t}"] for t in range(3)], -1)
        steps = x.diff(dim=1, prepend=torch.zeros(20_000, 1)) - drawn["z"][:, None]
        assert_mean(steps, 5.0)
        assert_mean((steps - 5).square(), 1.0)
    for each in (batch, pair.example):
        assert each["x"].eq(9).all()  # untouched


class Cascade(Pair):
    """`y ~ N(3 x, 0.1)` where x is data, too; `prepare` is of x, before it is observed."""

    def __init__(self, prepare=None, last=False):
        super().__init__()
        self.prepare, self.last = prepare or (lambda x: x), last

    def model(self, x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if self.last:
                pyro.sample("y", dist.Normal(z, 0.1), obs=y)
            pyro.sample("x", dist.Normal(z, 1.0), obs=self.prepare(x))
            if not self.last:
                pyro.sample("y", dist.Normal(3 * x, 0.1), obs=y)

    def guide(self, x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))


def test_data_that_other_data_depend_on_are_drawn_with_them(assert_mean, caplog):
    pair, batch = Cascade(), (torch.rand(5000), torch.rand(5000))
    pair.check(batch)
    for at in (5000, batch):
        drawn = pair.sample(at)
        assert_mean((drawn["y"] - 3 * drawn["x"]).square(), 0.01)
    assert "written there" not in caplog.text


@pytest.mark.parametrize(("prepare", "last"), [(torch.exp, False), (torch.exp, True), (None, False)])
def test_draws_without_a_place_that_may_be_read_are_announced(prepare, last, caplog):
    """Not where nothing is drawn after them."""
    pair, batch = Cascade(prepare, last), (torch.rand(5), torch.rand(5))
    pair.check(batch)
    pair.sample(batch)
    assert ("'x' observes what the model computes" in caplog.text) == (prepare is not None and not last)


@pytest.mark.parametrize("name", list(ZOO))
def test_simulated_data_fit_every_pair(name):
    pair, batch = ZOO[name].make()
    found, latents = simulate(pair, batch)
    assert pair.log_weights(found, 2).log_w.isfinite().all()
    pair.check(batch)
    assert set(latents) == set(pair.sample_joint(2, observed=False))


class Computed(Pair):
    def __init__(self, factor=False):
        super().__init__()
        self.factor = factor

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if self.factor:
                pyro.factor("x", -(x - z).square())
            else:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x / 255)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


@pytest.mark.parametrize(
    ("factor", "found"),
    [
        (False, "observed data that the model computes from the batch"),
        (True, "a term of the density that has no draws"),
    ],
)
def test_data_without_a_place_in_the_batch_are_refused(factor, found):
    with pytest.raises(ContractError, match=f"model site 'x': found {found}"):
        simulate(Computed(factor), torch.zeros(3))


class Early(Pair):
    """`y ~ N(3 x, 0.1)`, and x is data, too; `look` is what the model does with x above both statements."""

    def __init__(self, look, of_view=False):
        super().__init__()
        self.look, self.of_view = look, of_view
        self.loc = nn.Parameter(torch.zeros(()))

    def model(self, x, y):
        mean = x[:] if self.of_view else self.look(x)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0))
            if self.of_view:
                pyro.sample("y", dist.Normal(mean, 0.1), obs=y)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            if not self.of_view:
                pyro.sample("y", dist.Normal(mean, 0.1), obs=y)

    def guide(self, x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))


class Forecaster(Pair):
    """`x_t ~ N(f(x_1 ... x_{t-1}) + z, 1)` as one site: f reads the data, all at once."""

    def __init__(self):
        super().__init__()
        self.path = nn.GRU(1, 3, batch_first=True)
        self.head = nn.Linear(3, 1)

    def model(self, x):
        before = nn.functional.pad(x, (1, -1))
        loc = self.head(self.path(before[..., None])[0])[..., 0]
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(loc + z[..., None], 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1), 1.0))


OUTSIDE_TORCH = {
    "numpy": lambda x: torch.from_numpy(3 * x.numpy()),
    "array": lambda x: torch.as_tensor(3 * np.asarray(x[:])),
    "list": lambda x: torch.tensor([3 * entry for entry in x.tolist()]),
    "item": lambda x: torch.tensor([3 * float(entry) for entry in x]),
}


def _early(kind):
    if kind == "sequence":
        pair, batch = Forecaster(), torch.rand(3, 4)
    else:
        look = OUTSIDE_TORCH.get(kind, lambda x: 3 * x)
        pair, batch = Early(look, of_view=kind == "view"), (torch.rand(3), torch.rand(3))
    pair.check(batch)
    return pair, batch


@pytest.mark.parametrize(
    ("kind", "site"), [("computed", "y"), ("view", "y"), ("sequence", "x"), *((kind, "y") for kind in OUTSIDE_TORCH)]
)
def test_data_that_are_read_before_they_are_drawn_are_refused(kind, site):
    pair, batch = _early(kind)
    found = (
        rf"model site '{site}': found that it depends on data before .* as \['x'\] .*, expected data to be read below"
    )
    for draw in (pair.sample, lambda at: simulate(pair, pair.examples(at) if isinstance(at, int) else at)):
        for at in (5, batch, 1):
            with pytest.raises(ContractError, match=found):
                draw(at)
    assert set(pair.sample_joint(5, observed=False)) == {"z"}  # drawn before, so right
    with pytest.raises(ContractError, match=found):
        ppvae.fit(pair, batch, ppvae.RWS(2, phase="sleep"), steps=1, progress=False)
    assert pair.log_weights(batch, 2).log_w.isfinite().all()


@pytest.mark.parametrize("kind", ["computed", "sequence"])
def test_the_export_leaves_out_what_cannot_be_drawn(kind, caplog):
    pair, batch = _early(kind)
    groups = ppvae.to_arviz(pair, batch, num_samples=4, progress=False).groups
    names = {str(name).strip("/") for name in (groups() if callable(groups) else groups)}
    assert {"posterior", "log_likelihood", "observed_data"} <= names
    assert not names & {"prior", "prior_predictive", "posterior_predictive"}
    assert "without the groups prior, prior_predictive and posterior_predictive: model site" in caplog.text


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.new_zeros(len(x)),
        lambda x: torch.zeros_like(x),
        lambda x: torch.zeros(x.shape, dtype=x.dtype, device=x.device),
        lambda x: torch.where(x.isnan(), 1.0, 0.0),
        lambda x: 0.0 * x,
        lambda x: torch.zeros(len(x.numpy())),
    ],
    ids=["new_zeros", "zeros_like", "shape, dtype, device", "isnan", "times zero", "NumPy's shape"],
)
def test_to_look_at_data_early_and_not_depend_on_them_is_no_fault(look, assert_mean):
    pair, batch = Early(look), (torch.rand(5000), torch.rand(5000))
    pair.check(batch)
    assert_mean(pair.sample(batch)["y"], look(torch.zeros(5000))[0])


def test_masks_of_data_that_are_missing_are_no_fault(assert_mean):
    """A draw has no missing entry, so that its masks are others; its distribution is the same."""

    class Missing(Pair):
        def model(self, x, there):
            present = there & ~x.isnan() & (x > 0)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                with pyro.poutine.mask(mask=present.any(-1)):
                    pyro.sample("x", dist.Normal(z[..., None] + torch.zeros(2), 1.0).mask(present).to_event(1), obs=x)

        def guide(self, x, there):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    num = 5000
    (x, _), latents = simulate(Missing(), (torch.rand(num, 2), torch.tensor([[True, False]] * num)))
    assert_mean(x[:, 0].square(), 2.0)
    assert_mean(x[:, 0] * latents["z"], 1.0)


def test_to_look_for_early_reads_takes_nothing_from_the_generator():
    pair, batch = Early(torch.zeros_like), (torch.rand(5), torch.rand(5))
    torch.manual_seed(0)
    found = simulate(pair, batch)
    torch.manual_seed(0)
    drawn = draw_jointly(pair, batch)
    assert torch.equal(found[0][1], drawn.batch[1])
