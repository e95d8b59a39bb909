"""How torch's compiler is called: what it does at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch._inductor import codecache
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.inference import compiler


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
