"""A pair in a file: its parameters, buffers and example, and how it was made, where a file can say so."""

import contextlib
import importlib
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from ppvae.arguments import File, checked
from ppvae.batches import Batch, entries
from ppvae.inference.runtime.checkpoint import (
    CheckpointError,
    check_same,
    layout,
    prefixed,
    read,
    refuse_nan,
    require,
    unprefixed,
    with_nan,
    write,
)
from ppvae.pair import Pair
from ppvae.recipes import Recipe, class_name, made
from ppvae.state import saved_state
from ppvae.threads import turn

COMPILED = "_orig_mod."
"""What `torch.compile` puts into the names of a module's parameters."""


@checked
def save(pair: Pair, path: File) -> None:
    """Writes a pair to a safetensors file; an old one is replaced in one piece.

    The file holds parameters, buffers and `example`, and the arguments that the pair was made with, if these are plain
    (numbers, strings, sequences of them, classes of `torch.nn`). It does not hold code: a pair of your own is loaded
    where its class has been imported.

    Args:
        pair: whose `state_dict`, `example` and `recipe` are written.
        path: of the file.

    Raises:
        ValueError: a parameter has NaN, the pair's `state_dict` holds what is no tensor, or the path leads to a folder
            or a device.
        OSError: the file cannot be written; an old one is as it was.

    Example:
        >>> import tempfile
        >>> from ppvae.models import VAE
        >>> path = Path(tempfile.mkdtemp()) / "pair.safetensors"
        >>> save(VAE.mlp(num_features=5, num_latents=2, hidden=[10]), path)
        >>> load(path).encode(torch.zeros(3, 5)).mean.shape
        torch.Size([3, 2])
    """
    if (name := with_nan(dict(pair.named_parameters()))) is not None:
        raise ValueError(
            f"pair: found NaN in parameter '{name}', expected numbers; save the pair as it was before, or train it "
            "with a lower learning rate"
        )
    example, kind = example_of(pair)
    tensors = prefixed("pair", plain_names(saved_state(pair))) | prefixed("example", example)
    write(path, tensors, {"pair": type(pair).__qualname__, "example": kind, "recipe": pair.recipe})


@overload
def load(pair: str | Path) -> Pair: ...
@overload
def load(pair: Pair, path: str | Path) -> Pair: ...
@checked
def load(pair: Pair | File, path: File | None = None) -> Pair:
    """A pair from a file of `save`, or the latest parameters, buffers and `example` in a checkpoint of `fit`.

    `load(path)` makes the pair anew, as it was made, on the CPU and of the file's precision. `load(pair, path)` reads
    into one of the same architecture, which stays on its device: so for pairs that were made from modules or functions.
    If a checkpoint keeps an average of the parameters, the average is read.

    Args:
        pair: the path of the file; or a pair to read into.
        path: of the file, if a pair is given.

    Returns:
        The pair.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is damaged or foreign, or has NaN in a parameter, or does not say how to make the
            pair, or the given pair's tensors differ in name, shape or type (the differing ones are named). The pair is
            then untouched.
    """
    if path is not None and not isinstance(pair, Pair):
        raise TypeError(f"pair: found {pair!r} beside path, expected a pair to read into; load(path) makes one anew")
    source = pair if path is None else path
    if isinstance(source, Pair):
        raise TypeError(f"path: found none beside {type(source).__name__}, expected that of a file; load(pair, path)")
    tensors, about = read(source)
    require(source, about, {"recipe": dict | None, "example": dict | None})
    example = example_in(source, unprefixed("example", tensors), about["example"])
    state = unprefixed("pair", tensors) | unprefixed("average", tensors)
    result = pair if isinstance(pair, Pair) else _remade(source, about["recipe"], state)
    found, state = saved_state(result), plain_names(state)
    own = {plain_name(name): name for name in found}
    check_same(source, layout(state), layout(plain_names(found)))
    refuse_nan(source, {name: state[plain_name(name)] for name, _ in result.named_parameters()})
    result.load_state_dict({own[name]: t for name, t in state.items()})
    if example is not None:
        result.example = example
    return result


def _remade(path: str | Path, recipe: Recipe | None, state: dict[str, Tensor]) -> Pair:
    """A new pair as the file has it, of the precision of its tensors."""
    if recipe is None:
        raise CheckpointError(
            f"{path}: found a pair whose making it does not tell, as modules, functions or tensors were passed to it, "
            "expected plain arguments alone; make the pair as before and read into it, with ppvae.load(pair, path)"
        )
    require(path, recipe, {"class": str, "method": str, "args": list, "kwargs": dict})
    cls = _class(path, recipe["class"])
    with turn("load"), torch.random.fork_rng(devices=[]):
        try:
            pair = made(cls, recipe)
        except Exception as error:  # of any kind: users' code
            raise CheckpointError(
                f"{path}: found that {recipe['class']} does not take the arguments in the file ({error}), expected "
                "those of the code that wrote it; make the pair and read into it, with ppvae.load(pair, path)"
            ) from error
    precision = next((t.dtype for t in state.values() if t.is_floating_point()), None)
    if layout(plain_names(state)) != layout(plain_names(saved_state(pair))):
        pair.to(precision)  # as `pair.double()` was called before it was saved
    return pair


def _class(path: str | Path, name: str) -> type[Pair]:
    """A class of pairs by its full name. Of ppvae's own, the module is imported; a file may import nothing else."""
    if name.startswith("ppvae."):
        with contextlib.suppress(ImportError):  # a module of another version
            importlib.import_module(name.rpartition(".")[0])
    found = next((cls for cls in _below(Pair) if class_name(cls) == name), None)
    if found is None:
        raise CheckpointError(
            f"{path}: found a pair of class {name}, which is not known here, expected one that has been imported; "
            "import the module that defines it first, or make the pair and read into it, with ppvae.load(pair, path)"
        )
    return found


def _below(cls: type[Pair]) -> list[type[Pair]]:
    """All subclasses, the latest first."""
    return [found for own in reversed(cls.__subclasses__()) for found in (own, *_below(own))]


def plain_name(name: str) -> str:
    """A parameter's name without what `torch.compile` puts into it."""
    return name.replace(COMPILED, "")


def plain_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names without what `torch.compile` puts into them."""
    return {plain_name(name): t for name, t in tensors.items()}


def example_of(pair: Pair) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """A pair's `example` for a file, as tensors and as what JSON holds: its kind of batch, and its other entries.

    None where there is no example, or where it has an entry that a file cannot hold, such as a module.
    """
    if pair.example is None:
        return {}, None
    named = entries(pair.example)
    others = {name: value for name, value in named.items() if not isinstance(value, Tensor)}
    if not all(value is None or isinstance(value, bool | int | float | str) for value in others.values()):
        return {}, None
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    return tensors, {"kind": type(pair.example).__name__, "names": list(named), "others": others}


def example_in(path: str | Path, tensors: dict[str, Tensor], about: dict[str, Any] | None) -> Batch | None:
    """The `example` that `example_of` took apart, from a file."""
    if about is None:
        return None
    require(path, about, {"kind": str, "names": list, "others": dict})
    found = tensors | about["others"]
    if sorted(found) != sorted(about["names"]) or not found:
        raise CheckpointError(f"{path}: found an example of {sorted(found)}, expected one of {about['names']}")
    named = {name: found[name] for name in about["names"]}
    if about["kind"] == "dict":
        return named
    return tuple(named.values()) if about["kind"] == "tuple" else next(iter(named.values()))
