"""Threads of one process: each gets what it would get alone, or is told why it cannot."""

import os
import threading

import pyro
import pytest
from pyro.poutine.runtime import _PYRO_STACK
from support.surroundings import JOBS, X, at_once, pair, run_worker

import ppvae
from ppvae import threads
from ppvae.models import LinearVAE
from ppvae.threads import exclusive, outermost, turn

QUICK = ("elbo", "check", "sample, encode, reconstruct")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow(1.5)] * (n not in QUICK)) for n in JOBS])
def test_each_of_several_at_once_gets_what_it_gets_alone(name):
    assert at_once([JOBS[name]], 8) == {"same": 8, "other": 0, "failed": 0}


@pytest.mark.slow(3)
def test_two_dozen_of_all_kinds_at_once():
    assert at_once([*JOBS.values()], 24) == {"same": 24, "other": 0, "failed": 0}


def test_a_thread_that_a_callback_waits_for_is_refused(monkeypatch):
    monkeypatch.setattr(threads, "PATIENCE", 0.5)
    (told,) = run_worker()
    assert "found `elbo` in thread" in told
    assert "in a callback of `fit`" in told
    assert "call it in the callback's own thread" in told


def test_a_callback_may_measure_and_train():
    found = []

    def callback(run):
        found.append(ppvae.elbo(run.pair, X, seed=0, progress=False).mean().estimate)
        ppvae.fit(LinearVAE(4, 2), X, epochs=1, progress=False)

    ppvae.fit(pair(), X, epochs=2, progress=False, callbacks=[callback])
    assert len(found) == 2


def test_a_thread_that_nobody_waits_for_has_its_turn_after_the_callbacks():
    workers, found = [], []
    one = pair()  # here, as making it draws from torch's generator, which `fit` uses meanwhile

    def callback(run):
        worker = threading.Thread(
            target=lambda: found.append(ppvae.elbo(one, X, seed=0, progress=False).mean().estimate)
        )
        worker.start()
        workers.append(worker)

    ppvae.fit(pair(), X, epochs=1, progress=False, callbacks=[callback])
    workers[0].join()
    assert found == [ppvae.elbo(pair(), X, seed=0, progress=False).mean().estimate]


def test_handlers_that_cannot_be_left_are_taken_away():
    class Entering(LinearVAE):
        """Enters a handler and fails."""

        def guide(self, x):
            pyro.poutine.mask(mask=False).__enter__()
            raise ZeroDivisionError

    one = Entering(4, 2)
    for call in (
        one.check,
        one.log_weights,
        one.encode,
        lambda x: ppvae.elbo(one, x),
        lambda x: ppvae.fit(one, x, epochs=1),
    ):
        with pytest.raises(ppvae.ContractError):
            call(X)
        assert not _PYRO_STACK


def test_the_users_own_handlers_stay():
    with pyro.poutine.block():
        before = list(_PYRO_STACK)
        pair().log_weights(X)
        assert before == _PYRO_STACK


def test_the_outermost_call_is_known_in_its_own_thread():
    seen = []

    @exclusive
    def inner():
        seen.append(outermost())
        other = threading.Thread(target=lambda: seen.append(outermost()))
        other.start()
        other.join()

    with turn("outer"):
        inner()
    assert seen == ["outer", ""]
    assert outermost() == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_does_not_wait_for_a_thread_that_it_does_not_have():
    held, done = threading.Event(), threading.Event()

    def hold():
        with turn("a long run"):
            held.set()
            done.wait()

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    if (child := os.fork()) == 0:
        with turn("in the child"):
            os._exit(7)
    _, status = os.waitpid(child, 0)
    done.set()
    other.join()
    assert os.waitstatus_to_exitcode(status) == 7
