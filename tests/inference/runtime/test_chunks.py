"""Chunks of data points and particles: they make no difference, keep to the memory there is, and are of one size."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppvae import Pair
from ppvae.inference.evidence.estimates import elbo, log_evidence
from ppvae.inference.evidence.pareto import pareto_khat, tail_size
from ppvae.inference.runtime import chunks

pytestmark = pytest.mark.usefixtures("float64")


class Table(Pair):
    """log w read from a table `[K, N]`, cyclically: any chunks of K particles give the same K weights.

    A batch is the column numbers. `largest` is the largest chunk asked for; more than `memory` rows fail.
    """

    def __init__(self, log_w, memory=math.inf, error=MemoryError):
        super().__init__()
        self.log_w, self.memory, self.error = log_w, memory, error
        self.read = torch.zeros(log_w.shape[1], dtype=torch.long)
        self.largest = 0

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("weight", self.next_rows(z, x))

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def check_once(self, batch):
        """Not at all: it counts what it is asked for."""

    def next_rows(self, z, x):
        self.largest = max(self.largest, z.numel())
        if z.numel() > self.memory:
            raise self.error
        index = self.read[x] + torch.arange(len(z)).unsqueeze(-1)
        self.read[x] += len(z)
        return self.log_w[index % len(self.log_w), x]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", 20_000)


def test_streaming_equals_the_formulas(small_chunks):
    log_w = torch.randn(1001, 3) * 2
    pair = Table(log_w)
    found = log_evidence(pair, torch.arange(3), "iwae", num_particles=1001)
    assert pair.largest < 1001
    ess = (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()
    w = (log_w - log_w.logsumexp(0)).exp() * 1001
    torch.testing.assert_close(found.estimate, log_w.logsumexp(0) - math.log(1001))
    torch.testing.assert_close(found.ess, ess)
    torch.testing.assert_close(found.std_error, w.std(0) / 1001**0.5)
    torch.testing.assert_close(found.khat, pareto_khat(log_w.topk(tail_size(1001) + 1, 0).values))
    bound = elbo(Table(log_w), torch.arange(3), num_samples=1001)
    torch.testing.assert_close(bound.estimate, log_w.mean(0))
    torch.testing.assert_close(bound.std_error, log_w.std(0) / 1001**0.5)


def test_memory_grows_neither_with_particles_nor_with_data(small_chunks):
    largest = []
    for num_particles, num_points in ((1, 5000), (100, 50), (3000, 2), (20000, 1)):
        pair = Table(torch.zeros(1, num_points))
        log_evidence(pair, torch.arange(num_points), "iwae", num_particles)
        largest.append(pair.largest)
    assert 100 < max(largest) < 1000


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_chunks_are_halved_when_memory_runs_out(error):
    log_w = torch.randn(500, 3)
    pair = Table(log_w, memory=60, error=error)
    found = log_evidence(pair, torch.arange(3), "iwae", num_particles=500)
    torch.testing.assert_close(found.estimate, log_w.logsumexp(0) - math.log(500))


def test_few_data_points_are_halved_too_when_memory_runs_out():
    """Ten are the fewest of a chunk, unless there is no memory for them."""
    log_w = torch.randn(1, 12)
    pair = Table(log_w, memory=3)
    found = log_evidence(pair, torch.arange(12), "iwae", num_particles=1)
    torch.testing.assert_close(found.estimate, log_w[0])


def test_chunks_are_of_one_size(monkeypatch):
    """Forty-one data points, where there is room for twenty, are three chunks; forty-five of forty, one."""
    sizes_of = {}
    for num_points, room in ((41, 20), (45, 40)):
        monkeypatch.setattr(chunks, "chunk_rows", lambda *_, room=room: room)
        sizes_of[num_points] = []

        def measure(index, num_particles, at_once, seen=sizes_of[num_points]):
            seen.append(len(index))
            return {"estimate": index.double()}

        found = chunks.over_data(Table(torch.zeros(1, 1)), torch.arange(num_points), 1, measure, None)
        assert torch.equal(found["estimate"], torch.arange(num_points).double())
    assert sizes_of == {41: [21, 20], 45: [45]}


def test_memory_too_small_for_one_row_and_other_errors_are_raised():
    with pytest.raises(MemoryError):
        log_evidence(Table(torch.zeros(1, 3), memory=0), torch.arange(3), "iwae", 10)
    with pytest.raises(RuntimeError, match="a bug"):
        log_evidence(Table(torch.zeros(1, 3), memory=5, error=RuntimeError("a bug")), torch.arange(3), "iwae", 10)
