"""Torch's compiler of flat lists of operations, as it is called here: which options, and what it does meanwhile.

A program takes seconds to compile. On a CPU most of them are the C++ compiler's, which is asked what the processor can
do while the program is still being traced, and translates the kernels and what calls them at the same time.
"""

import contextlib
import gc
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.fx import GraphModule

OPTIONS = {
    "fallback_random": True,  # torch's own generators
    "cpp.min_chunk_size": 16384,  # elements below which a loop is not worth waking other threads for
    "cpp.enable_floating_point_contract_flag": "fast",  # a product and a sum in one instruction
    "cpp.enable_loop_tail_vec": False,  # torch 2.13 writes past the end of some loops' last vectors
    "size_asserts": False,  # callers see to that
    "alignment_asserts": False,
}
CPU_OPTIONS = {
    "cpp_wrapper": True,  # a file of C++ that calls the kernels, in place of Python,
    "cpp_wrapper_build_separate": True,  # and one of all kernels, in place of ten
    "cpp.vec_isa_ok": True,  # the processor says itself what it can do: fewer programs to find out
    "cpp_cache_precompile_headers": False,  # that takes as long as four programs
    "aot_inductor.enable_line_tables": False,  # nothing for debuggers
}


def program(
    trace: Callable[[], GraphModule], inputs: Sequence[Tensor], device: torch.device
) -> Callable[..., list[Tensor]]:
    """What `trace` returns, compiled for tensors like `inputs`; what goes wrong is raised as it is."""
    from torch._guards import TracingContext, tracing  # here, as the compiler takes long to import
    from torch._inductor import compile as translated
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    on_cpu = device.type == "cpu"
    with _silent(), _uncollected(), ThreadPoolExecutor() as pool:
        if on_cpu:
            pool.submit(_ask_for_the_processor)
        graph = trace()
        context = tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv())))  # else it is not cached on disk
        with torch.no_grad(), context, _at_once(pool):
            return translated(graph, list(inputs), options=OPTIONS | (CPU_OPTIONS if on_cpu else {}))


def _ask_for_the_processor() -> None:
    """The answers are kept; should they come too late, or this torch be asked otherwise, the compiler asks itself."""
    from torch._inductor import config, cpu_vec_isa

    with config.patch({"cpp.vec_isa_ok": CPU_OPTIONS["cpp.vec_isa_ok"]}):
        cpu_vec_isa.valid_vec_isa_list()


@contextlib.contextmanager
def _at_once(pool: ThreadPoolExecutor) -> Iterator[None]:
    """The files that make up one library are translated at the same time, not one by one, if this torch lets us."""
    from torch._inductor import codecache

    one_by_one: Callable[[str, Sequence[Any]], None] | None = getattr(codecache, "_worker_compile_cpp", None)
    if one_by_one is None:
        yield
        return

    def at_once(lock_path: str, builders: Sequence[Any]) -> None:
        files = builders[:-1]  # the last one links them
        list(pool.map(lambda i: one_by_one(f"{lock_path}.{i}", [files[i]]), range(len(files))))
        one_by_one(lock_path, builders)  # which finds those done

    with mock.patch.object(codecache, "_worker_compile_cpp", at_once):
        yield


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Garbage waits until afterwards, a hundred megabytes of a large program: finding it takes a tenth of the time."""
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what the compiler says of its own code."""
    logger = logging.getLogger("torch._inductor.ir")  # which operations it calls another way
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
