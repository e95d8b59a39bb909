"""Data points from where they are, or fetched ahead: the same ones."""

import threading

import pytest
import torch

import ppvae
from ppvae.batches import map_batch
from ppvae.inference.training import feeding
from ppvae.models import LinearVAE

CPU = torch.device("cpu")
X = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("data", [X, (X, 2 * X), {"x": X, "n": torch.arange(50)}], ids=["tensor", "tuple", "dict"])
def test_both_feeds_give_the_same_points_whatever_was_announced(data):
    ahead, here = feeding.Ahead(data, CPU), feeding.feed(data, CPU)
    order, none = torch.randperm(50, generator=torch.Generator().manual_seed(1)), torch.tensor([], dtype=torch.long)
    calls = [(order[:7], order[7:14]), (order[7:14], order[14:16]), (order[30:], none), (order[:3], order[:3])]
    for index, following in calls:
        torch.testing.assert_close(ahead(index, following), map_batch(lambda t, i=index: t[i], data))
        torch.testing.assert_close(here(index, following), map_batch(lambda t, i=index: t[i], data))


def test_the_next_points_are_fetched_before_they_are_asked_for(monkeypatch):
    ahead, fetched = feeding.Ahead(X, CPU), {}
    fetch = ahead._fetch

    def noted(index):
        fetched[tuple(index.tolist())] = threading.current_thread()
        return fetch(index)

    monkeypatch.setattr(ahead, "_fetch", noted)
    ahead(torch.tensor([1, 2]), torch.tensor([3, 4]))
    ahead._next[1].result()
    assert list(fetched) == [(1, 2), (3, 4)]
    ahead(torch.tensor([3, 4]), torch.tensor([], dtype=torch.long))
    assert list(fetched) == [(1, 2), (3, 4)]  # not once more
    assert threading.current_thread() not in fetched.values()


def test_what_goes_wrong_in_fetching_is_raised_and_forgotten():
    ahead = feeding.Ahead(X, CPU)
    ahead(torch.tensor([1]), torch.tensor([99]))
    with pytest.raises(IndexError):
        ahead(torch.tensor([99]), torch.tensor([2]))
    torch.testing.assert_close(ahead(torch.tensor([2]), torch.tensor([3])), X[2:3])


@pytest.mark.parametrize("compile", [False, True])
def test_training_is_the_same_bit_for_bit(compile, monkeypatch, tmp_path):
    def trained(**settings):
        torch.manual_seed(0)
        settings = {"epochs": 3, "batch_size": 20, "progress": False, "compile": compile} | settings
        return ppvae.fit(LinearVAE(num_features=3, num_latents=2), X, **settings)

    here = trained()
    monkeypatch.setattr(feeding, "feed", feeding.Ahead)
    trained(epochs=2, checkpoint=tmp_path / "run")
    for other in (trained(), trained(checkpoint=tmp_path / "run", resume=True)):
        for one, same in zip(here.pair.parameters(), other.pair.parameters(), strict=True):
            assert torch.equal(one, same)


@pytest.mark.parametrize(("free", "expected"), [(2000, "cuda"), (1000, "cpu")])
def test_data_stay_on_the_host_if_they_would_take_most_of_a_gpu(free, expected, monkeypatch):
    class Placed(torch.Tensor):
        def to(self, device):
            return device.type

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10 * free))
    assert feeding.placed({"x": torch.ones(150).as_subclass(Placed)}, torch.device("cuda")) == {"x": expected}
