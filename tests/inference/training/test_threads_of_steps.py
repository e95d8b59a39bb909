"""Small steps run on one thread, as waking others takes longer than what they would do."""

import pytest
import torch

import ppvae
from ppvae.models import LinearVAE


class Watched(LinearVAE):
    """Notes the number of threads at each run of its model, and fails on request."""

    def __init__(self, num_features):
        super().__init__(num_features, 2)
        self.threads, self.fails = [], False

    def model(self, x):
        self.threads.append(torch.get_num_threads())
        if self.fails:
            raise ArithmeticError("on request")
        super().model(x)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize(("num_features", "num_points", "expected"), [(4, 50, 1), (4, 50_000, 3), (2000, 50, 3)])
def test_one_thread_where_there_is_little_to_compute(num_features, num_points, expected):
    pair, x = Watched(num_features), torch.randn(num_points, num_features)
    trainer = ppvae.Trainer(pair)
    trainer.step(x)
    pair.threads.clear()
    trainer.step(x)
    assert set(pair.threads) == {expected}
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_a_larger_batch_has_the_callers_threads_again():
    pair, x = Watched(4), torch.randn(50_000, 4)
    trainer = ppvae.Trainer(pair)
    for num_points, expected in ((50, 1), (50_000, 3), (50, 1)):
        trainer.step(x[:num_points])
        assert pair.threads[-1] == expected


@pytest.mark.usefixtures("three_threads")
def test_a_step_that_fails_gives_the_threads_back():
    pair, x = Watched(4), torch.randn(50, 4)
    trainer = ppvae.Trainer(pair)
    trainer.step(x)
    pair.fails = True
    with pytest.raises(ArithmeticError, match="on request"):
        trainer.step(x)
    assert torch.get_num_threads() == 3
