"""How torch's compiler is called: what it does at the same time."""

import gc
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch._inductor import codecache, config
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.inference.compiling import compiler


def test_the_files_of_a_library_are_translated_at_once_and_then_linked(monkeypatch):
    together, calls = threading.Barrier(2, timeout=30), []

    def translate(lock_path, builders):
        if len(builders) == 1:
            together.wait()  # raises, if the other is not there
        calls.append((lock_path, list(builders)))

    monkeypatch.setattr(codecache, "_worker_compile_cpp", translate)
    with ThreadPoolExecutor() as pool, compiler._at_once(pool):
        codecache._worker_compile_cpp("lock", ["main", "kernels", "linker"])
    assert sorted(calls[:2]) == [("lock.0", ["main"]), ("lock.1", ["kernels"])]
    assert calls[2:] == [("lock", ["main", "kernels", "linker"])]
    assert codecache._worker_compile_cpp is translate


def test_a_compiler_that_has_no_such_function_is_left_alone(monkeypatch):
    monkeypatch.delattr(codecache, "_worker_compile_cpp")
    with ThreadPoolExecutor() as pool, compiler._at_once(pool):
        assert not hasattr(codecache, "_worker_compile_cpp")


@pytest.mark.slow(6)
def test_a_program_does_what_was_traced_and_warns_of_nothing():
    x = torch.randn(5, 3)
    trace = partial(make_fx(lambda x: [x.sin().sum(0), 2 * x]), x)
    program = compiler.program(trace, [x], x.device)
    torch.testing.assert_close(program(x), [x.sin().sum(0), 2 * x])


@pytest.mark.slow(6)
def test_options_that_this_torch_lacks_are_left_out(monkeypatch):
    assert compiler.known({"cpp.min_chunk_size": 1, "cpp.no_such": 1, "no_such.at_all": 1}) == {"cpp.min_chunk_size": 1}
    monkeypatch.setitem(compiler.OPTIONS, "cpp.no_such", True)
    x = torch.randn(5, 3)
    program = compiler.program(partial(make_fx(lambda x: [x.cos()]), x), [x], x.device)
    torch.testing.assert_close(program(x), [x.cos()])


def test_every_option_is_one_of_torch():
    """A name that no torch has would be left out of all, unnoticed."""
    wanted = compiler.OPTIONS | compiler.CPU_OPTIONS
    assert wanted.keys() - compiler.known(wanted).keys() <= {"aot_inductor.enable_line_tables"}  # new in torch 2.13


@pytest.mark.slow(12)
def test_the_compiler_is_set_as_before_afterwards():
    x = torch.randn(5, 3)
    compiler.program(partial(make_fx(lambda x: [x.sinh()]), x), [x], x.device)  # what is imported late is there
    before = config.get_config_copy()
    compiler.program(partial(make_fx(lambda x: [x.cosh()]), x), [x], x.device)
    assert config.get_config_copy() == before


def test_threads_compile_one_after_another():
    """Else one of them would put back what the other still needs, and leave behind what the other had set."""

    def state():
        return [gc.isenabled(), *[logging.getLogger(name).level for name in compiler.REMARKS]]

    before, inside, most = state(), [], []

    def trace():
        inside.append(1)
        time.sleep(0.05)
        most.append(len(inside))
        inside.pop()
        raise ValueError("not to be traced")

    def run(_):
        with pytest.raises(ValueError, match="not to be traced"):
            compiler.program(trace, [torch.ones(1)], torch.device("cpu"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    assert most == [1] * 4
    assert state() == before


@pytest.mark.parametrize("wanted", [True, False])
def test_no_garbage_is_collected_meanwhile_and_then_as_before(wanted):
    seen = []

    def trace():
        seen.append(gc.isenabled())
        raise ValueError("not to be traced")

    before = gc.isenabled()
    try:
        (gc.enable if wanted else gc.disable)()
        with pytest.raises(ValueError, match="not to be traced"):
            compiler.program(trace, [torch.ones(1)], torch.device("cpu"))
        assert seen == [False]
        assert gc.isenabled() == wanted
    finally:
        (gc.enable if before else gc.disable)()
