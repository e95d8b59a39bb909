"""Bars appear on a terminal, after their delay, and nowhere else; waits are said; compiling is not in the forecast."""

import io
import threading
import time

import pytest
import torch

import ppvae
from ppvae import progress
from ppvae.inference.compiling.inputs import CannotCompileError
from ppvae.inference.training import loop, step_programs
from ppvae.models import LinearVAE


class Stream(io.StringIO):
    """A standard error that tells when something is written."""

    def __init__(self, is_terminal):
        super().__init__()
        self.isatty = lambda: is_terminal
        self.written = threading.Event()

    def write(self, text):
        self.written.set()
        return super().write(text)


def shown_to(monkeypatch, is_terminal=True):
    """A standard error; set within a test, as pytest sets its own before."""
    stream = Stream(is_terminal)
    monkeypatch.setattr("sys.stderr", stream)
    return stream


@pytest.fixture
def pair():
    return LinearVAE(num_features=3, num_latents=1)


def train(pair, **settings):
    return ppvae.fit(pair, torch.randn(20, 3), steps=4, batch_size=10, **settings)


def test_training_shows_a_bar_on_a_terminal(pair, monkeypatch):
    terminal = shown_to(monkeypatch)
    train(pair)
    assert "4/4" in terminal.getvalue()


def test_a_notebook_without_widgets_shows_text(pair, monkeypatch):
    """Its standard error is no terminal; ipykernel's class is told by its module."""
    stream = shown_to(monkeypatch, is_terminal=False)
    stream.__class__ = type("OutStream", (Stream,), {"__module__": "ipykernel.iostream"})
    train(pair)
    assert "4/4" in stream.getvalue()


@pytest.mark.parametrize("case", ["a log", "closed", "missing", "progress=False", "set_progress(False)"])
def test_elsewhere_all_is_silent(pair, monkeypatch, case):
    stream = None if case == "missing" else Stream(case != "a log")
    if case == "closed":
        stream.isatty = lambda: io.StringIO.isatty(stream)  # which raises once it is closed
        stream.close()
    monkeypatch.setattr("sys.stderr", stream)
    try:
        ppvae.set_progress(case != "set_progress(False)")
        run = train(pair, progress=case != "progress=False")
        ppvae.elbo(pair, pair.sample(5), seed=0, progress=case != "progress=False")
    finally:
        ppvae.set_progress(True)
    assert run.steps == 4
    if case not in ("missing", "closed"):
        assert stream.getvalue() == ""


def test_a_bar_that_waits_for_its_first_step_appears(monkeypatch):
    terminal = shown_to(monkeypatch)
    with progress.progress_bar(shown=True, total=3, desc="a long step", delay=0.01, leave=False):
        assert terminal.written.wait(20)
    assert "a long step" in terminal.getvalue()


def test_a_wait_is_said_and_then_wiped(monkeypatch):
    terminal = shown_to(monkeypatch)
    with progress.waiting("downloading"):
        assert terminal.written.wait(20)
    assert "downloading ..." in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")


def test_what_is_quick_shows_nothing(pair, monkeypatch):
    terminal = shown_to(monkeypatch)
    ppvae.elbo(pair, pair.sample(5), seed=0)
    pair.encode(pair.sample(5))
    assert terminal.getvalue() == ""


def test_compiling_is_said_and_is_not_in_the_forecast(pair, monkeypatch):
    shown_to(monkeypatch)
    bars, waited = [], 0.4

    class Compiler:
        def __init__(self, *args):
            time.sleep(waited)
            raise CannotCompileError("there is none")

    def kept(**settings):
        bars.append(progress.progress_bar(**settings))
        return bars[0]

    monkeypatch.setattr(step_programs, "CompiledStep", Compiler)
    monkeypatch.setattr(loop, "progress_bar", kept)
    start = time.time()
    train(pair, compile=True)
    assert time.time() - start >= waited
    assert bars[0].last_print_t - bars[0].start_t <= time.time() - start - waited
