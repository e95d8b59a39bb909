"""How torch's compiler of flat lists of operations is called: with which options, and what runs in parallel.

A program takes seconds to compile, on a CPU mostly in the C++ compiler. So the processor's features are looked up while
the program is still being traced, and the kernels are compiled in parallel with the code that calls them.
"""

import contextlib
import gc
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from ppvae.inference.compiling.laid_out_draws import lay_out_draws

OPTIONS: dict[str, Any] = {
    "fallback_random": True,  # torch's own generators
    "cpp.min_chunk_size": 16384,  # elements below which a loop is not worth waking other threads for
    "cpp.enable_floating_point_contract_flag": "fast",  # a product and a sum in one instruction
    "cpp.enable_loop_tail_vec": False,  # torch 2.13 writes past the end of some loops' last vectors
    "size_asserts": False,  # callers check sizes
    "alignment_asserts": False,
    "reorder_for_peak_memory": False,  # it would change the order in which random numbers are drawn
}
CPU_OPTIONS: dict[str, Any] = {
    "cpp_wrapper": True,  # C++ calls the kernels instead of Python,
    "cpp_wrapper_build_separate": True,  # from a file of its own, with all kernels in one other file instead of ten
    "cpp.vec_isa_ok": True,  # trust the processor's report of its instructions: fewer test programs to compile
    "cpp_cache_precompile_headers": False,  # precompiling them takes as long as four programs
    "aot_inductor.enable_line_tables": False,  # no debug information
}
REMARKS = [
    "torch._inductor.ir",  # which operations it calls another way
    "torch.utils.cpp_extension",  # that there is a CUDA compiler, but no GPU
]
"""Loggers whose messages are of no use to users."""

ONE_AT_A_TIME = threading.RLock()
"""Held while a program is compiled, as the options and patches that are in force belong to the whole process."""


def program(
    trace: Callable[[], GraphModule], inputs: Sequence[Tensor], device: torch.device
) -> Callable[..., list[Tensor]]:
    """What `trace` returns, compiled for tensors like `inputs`; errors propagate unchanged.

    Threads that compile at the same time wait for each other.
    """
    from torch._guards import TracingContext, tracing  # here, as the compiler is slow to import
    from torch._inductor import compile as translated, config
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    on_cpu = device.type == "cpu"
    options = known(OPTIONS | (CPU_OPTIONS if on_cpu else {}))
    with ONE_AT_A_TIME, config.patch(options), _silent(), _uncollected(), ThreadPoolExecutor() as pool:
        if on_cpu:
            pool.submit(copy_context().run, _ask_for_the_processor)  # with the same options
        graph = trace()
        lay_out_draws(graph)
        for node in graph.graph.find_nodes(op="placeholder"):
            node.meta.pop("val", None)  # the trace's own fake tensors, which torch 2.8 would take for the inputs
        context = tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv())))  # else it is not cached on disk
        with torch.no_grad(), context, _at_once(pool), _drawn_before_read():
            return translated(graph, list(inputs), options=options)


def known(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the compiler's options that this torch has: names differ between versions, and unknown ones raise."""
    from torch._inductor import config

    return {name: value for name, value in options.items() if hasattr(config, name)}


def _ask_for_the_processor() -> None:
    """Caches the processor's features. If that is too late, or this torch has no such function, the compiler asks."""
    from torch._inductor import cpu_vec_isa

    cpu_vec_isa.valid_vec_isa_list()


@contextlib.contextmanager
def _at_once(pool: ThreadPoolExecutor) -> Iterator[None]:
    """Compiles the files of one library in parallel instead of one by one, where this torch allows it."""

    from torch._inductor import codecache

    module: Any = codecache
    one_by_one: Callable[[str, Sequence[Any]], None] | None = getattr(module, "_worker_compile_cpp", None)
    if one_by_one is None:
        yield
        return

    def at_once(lock_path: str, builders: Sequence[Any]) -> None:
        files = builders[:-1]  # the last one links them
        list(pool.map(lambda i: one_by_one(f"{lock_path}.{i}", [files[i]]), range(len(files))))
        one_by_one(lock_path, builders)  # finds the files already compiled

    module._worker_compile_cpp = at_once
    try:
        yield
    finally:
        module._worker_compile_cpp = one_by_one


@contextlib.contextmanager
def _drawn_before_read() -> Iterator[None]:
    """Calls `bernoulli` for a tensor of its own: loops that read what `bernoulli_` writes may come to run before it."""
    from torch._inductor import lowering

    draw = torch.ops.aten.bernoulli.p
    its_own = lowering.lowerings[draw]
    lowering.lowerings[draw] = lowering.fallback_handler(draw, add_to_fallback_set=False)
    try:
        yield
    finally:
        lowering.lowerings[draw] = its_own


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Leaves garbage, a hundred megabytes for a large program, until later: collection takes a tenth of the time."""
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silences the compiler's remarks on its own code and on the machine."""
    loggers = [logging.getLogger(name) for name in REMARKS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
