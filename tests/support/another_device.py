"""A device of its own for machines without one: its tensors are held on the CPU, and mix with those of the CPU nowhere.

Random numbers come from the CPU's generator, so that all results are those of the CPU, to the bit. Cells of `nn.GRU`
and `nn.LSTM` cannot be run: on other devices than the CPU torch takes kernels for them that the CPU lacks.
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro.ops.provenance import ProvenanceTensor
from torch import Tensor, nn
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from ppvae import Pair

aten = torch.ops.aten
BETWEEN = {aten.copy_.default, aten._to_copy.default}
"""What takes tensors of several devices."""
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""What takes indices that are on the CPU."""
PLAIN = {aten._local_scalar_dense.default, aten.equal.default}
"""What returns numbers of Python."""


def is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == "elsewhere"


class Elsewhere(Tensor):
    """A tensor on the device `elsewhere:0`, which holds one on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "Elsewhere":
        like = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = Tensor._make_wrapper_subclass(cls, held.shape, device="elsewhere:0", **like)
        made.held = held.detach()
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    @property  # type: ignore[override]
    def data(self) -> "Elsewhere":
        return Elsewhere(self.held)

    @data.setter
    def data(self, other: "Elsewhere") -> None:
        self.held = other.held

    def tolist(self) -> list[Any]:
        return self.held.tolist()

    def as_subclass(self, cls: type) -> Any:
        """Pyro traces dependencies by a class of tensors; of two classes, torch dispatches to neither."""
        if cls is not ProvenanceTensor:
            return Tensor.as_subclass(self, cls)
        with torch._C.DisableTorchFunctionSubclass():
            return Elsewhere.__new__(Traced, self.held)

    def __repr__(self) -> str:
        return f"Elsewhere({self.held})"


class Traced(ProvenanceTensor, Elsewhere):
    """One whose dependencies are traced."""


def run(func: Any, args: Any, kwargs: Any) -> Any:
    """The operation on what is held; refuses tensors of two devices, but for numbers."""
    given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    there = [t for t in given if isinstance(t, Elsewhere)]
    if func not in BETWEEN:
        indices = tree_leaves(args[1]) if func in INDEXING and isinstance(args[0], Elsewhere) else []
        for t in given:
            if there and not isinstance(t, Elsewhere) and t.dim() and not any(t is index for index in indices):
                raise RuntimeError(
                    f"Expected all tensors to be on the same device, but found elsewhere:0 and cpu: {func}"
                )

    def held(value: Any) -> Any:
        return value.held if isinstance(value, Elsewhere) else value

    def placed(value: Any) -> Any:
        return Elsewhere(value) if isinstance(value, Tensor) and not isinstance(value, Elsewhere) else value

    device = kwargs.get("device")
    on_cpu = tree_map(held, kwargs) | ({"device": torch.device("cpu")} if is_there(device) else {})
    found = func(*tree_map(held, args), **on_cpu)
    stays = bool(there) if device is None else is_there(device)
    if func in PLAIN or not stays or func is aten.copy_.default:
        return args[0] if func is aten.copy_.default else found
    return return_and_correct_aliasing(func, args, kwargs, tree_map(placed, found)) if there else placed(found)


def set_up() -> torch.library.Library:
    """Registers the device in this process, for as long as what is returned is kept."""
    from torch.utils import backend_registration

    class Backend(backend_registration._DummyBackendModule):
        """It has no generator of its own, and nothing to save."""

        def get_rng_state(self, device: Any) -> None: ...
        def set_rng_state(self, state: None, device: Any) -> None: ...

    backend_registration._setup_privateuseone_for_python_backend("elsewhere", Backend())
    library = torch.library.Library("aten", "IMPL")

    def empty(size: Any, *, dtype: Any = None, **_: Any) -> Tensor:
        return Elsewhere(torch.empty(size, dtype=dtype))

    def empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
        return Elsewhere(torch.empty_strided(size, stride, dtype=dtype))

    def copied(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
        source, target_held = (getattr(t, "held", t) for t in (source, target))
        target_held.copy_(source)
        return target

    def factory(op: Any) -> Callable[..., Tensor]:
        return lambda *args, **kwargs: run(op, args, kwargs | {"device": "elsewhere:0"})

    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("_copy_from", copied, "PrivateUse1")
    for name in ("arange", "eye", "linspace", "randperm", "tril_indices", "triu_indices"):
        packet = getattr(aten, name)
        for overload in packet.overloads():
            if "out" not in overload and "generator" not in overload and "Tensor" not in overload:
                suffix = "" if overload == "default" else f".{overload}"
                library.impl(f"{name}{suffix}", factory(getattr(packet, overload)), "PrivateUse1")
    return library


def moved(module: nn.Module) -> nn.Module:
    """The module with its parameters and buffers there; `Module.to` cannot put a subclass of tensors in their place."""
    there: dict[int, Tensor] = {}
    for each in module.modules():
        for name, p in each._parameters.items():
            if p is not None:
                there.setdefault(id(p), nn.Parameter(Elsewhere(p.detach().clone()), p.requires_grad))
                each._parameters[name] = there[id(p)]  # type: ignore[assignment]
        for name, b in each._buffers.items():
            if b is not None:
                each._buffers[name] = there.setdefault(id(b), Elsewhere(b.detach().clone()))
        if isinstance(each, Pair):
            each.checked_kinds.clear()
    return module
