"""What is kept of a pair and put back is all that training changes, whether or not a `state_dict` has it."""

import pytest
import torch
from support.small_pairs import Busy

import ppvae
from ppvae import AIS, CheckpointError, Effort, HeldOut
from ppvae.state import copied_state, set_state, state_of

X = torch.rand(60, 4, generator=torch.Generator().manual_seed(1)).double() + 3.0
EFFORT = Effort("iwae", 20, num_samples=20, restarts=0, richer=False, refit_steps=10)


class Centered(Busy):
    """The encoder sees data less a running mean, in a buffer that is in the `state_dict` or not."""

    def __init__(self, persistent):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4), persistent=persistent)

    def guide(self, x):
        if self.training:
            self.mean.lerp_(x.mean(0), 0.1)
        super().guide(x - self.mean)


class Counting(Busy):
    """With a count in the `state_dict` that is no tensor."""

    count = 0

    def get_extra_state(self):
        return {"count": self.count}

    def set_extra_state(self, state):
        self.count = state["count"]


def centered(persistent=False, seed=0):
    torch.manual_seed(seed)
    return Centered(persistent).double()


def trained(pair, epochs=6, **settings):
    return ppvae.fit(pair, X, **({"epochs": epochs, "batch_size": 20, "lr": 0.1, "progress": False} | settings))


def assert_same(one, other):
    a, b = state_of(one), state_of(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_a_state_is_put_back_whole_or_in_part():
    pair, other = centered(), centered(seed=1)
    trained(pair)
    state = copied_state(pair)
    set_state(other, {"mean": state["mean"]})
    assert torch.equal(other.mean, pair.mean)
    set_state(other, state)
    assert_same(other, pair)
    trained(pair)
    assert torch.equal(other.mean, state["mean"])  # which is memory of its own


def test_a_resumed_run_is_the_one_that_went_on(tmp_path):
    whole, first, rest = centered(), centered(), centered(seed=1)
    trained(whole)
    trained(first, 3, checkpoint=tmp_path / "run")
    trained(rest, checkpoint=tmp_path / "run", resume=True)
    assert_same(rest, whole)


def test_the_best_epoch_is_that_of_a_pair_that_keeps_the_buffer():
    held_out = HeldOut(X[:20], keep_best=True)
    one, other = (trained(centered(persistent), 30, held_out=held_out) for persistent in (False, True))
    assert one.history["held_out"].argmax() < 29
    assert_same(one.pair, other.pair)


def test_a_ledger_leaves_every_buffer():
    pair = centered()
    trained(pair)
    before = copied_state(pair)
    ppvae.gap(pair, X[:5], EFFORT, train=X, progress=False)
    assert torch.equal(pair.mean, before["mean"])


def test_a_measurement_goes_on_with_the_same_buffers_alone(tmp_path):
    pair = centered()
    chains = AIS(num_chains=2, num_temperatures=3, checkpoint=tmp_path / "chains")
    settings = {"method": "ais", "annealing": chains, "seed": 0, "progress": False}
    ppvae.log_evidence(pair, X[:4], **settings)
    pair.mean += 1.0
    with pytest.raises(CheckpointError, match="mean"):
        ppvae.log_evidence(pair, X[:4], **settings)


def test_what_is_no_tensor_hinders_no_training():
    pair, other = Counting(), Busy()
    other.load_state_dict(pair.state_dict(), strict=False)
    held_out = HeldOut(X[:20].float(), keep_best=True)
    for each in (pair, other):
        ppvae.fit(each, X.float(), epochs=3, progress=False, held_out=held_out)
    assert_same(pair, other)


def test_what_is_no_tensor_is_refused_in_a_file(tmp_path):
    told = r"pair: found a dict for '_extra_state' in its state_dict, expected a tensor.*keep it in a buffer"
    with pytest.raises(ValueError, match=told):
        ppvae.save(Counting(), tmp_path / "pair")
    pair = Counting()
    before = copied_state(pair)
    with pytest.raises(ValueError, match=told):
        ppvae.fit(pair, X.float(), epochs=3, progress=False, checkpoint=tmp_path / "run")
    assert [name for name, t in state_of(pair).items() if not torch.equal(t, before[name])] == []
    with pytest.raises(ValueError, match=told):
        ppvae.Trainer(pair).save(tmp_path / "trainer")
