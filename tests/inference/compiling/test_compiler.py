"""How torch's compiler is called: what it does at the same time."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch._inductor import codecache
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


def test_a_program_does_what_was_traced_and_warns_of_nothing():
    x = torch.randn(5, 3)
    trace = partial(make_fx(lambda x: [x.sin().sum(0), 2 * x]), x)
    program = compiler.program(trace, [x], x.device)
    torch.testing.assert_close(program(x), [x.sin().sum(0), 2 * x])


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
