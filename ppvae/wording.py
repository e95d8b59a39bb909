"""Values and alternatives in words, as messages say them."""

import math
import reprlib
from itertools import chain, islice
from types import NoneType
from typing import Any

import numpy as np
from torch import Tensor, nn


def listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def counted(num: int, thing: str) -> str:
    """A number of things: 1 data point, 20 data points."""
    return f"{num} {thing}{'s' * (num != 1)}"


def figures(table: Any, na_rep: str = "NaN") -> str:
    """A data frame in full, its numbers to three decimals; none of them is a negative zero."""
    return str(table.to_string(float_format="{:z.3f}".format, na_rep=na_rep))


def with_article(name: str) -> str:
    """A class's name in a sentence: an ELBO, a Fit, StepOptions."""
    if name.endswith("s"):
        return name
    by_letter = name[:2].isupper()  # an abbreviation is spelled out: an MLP, but a Measurement
    return f"{'an' if name[0] in ('AEFHILMNORSX' if by_letter else 'AEIOaeio') else 'a'} {name}"


NAMES: dict[type, str] = {
    Tensor: "a tensor",
    NoneType: "None",
    nn.Module: "a torch.nn.Module",
    str: "a string",
}


PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic)


def shown(value: Any) -> str:
    """A value in a few words; never a whole tensor, table or network."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, int) and abs(value) >= 10**15:
        return f"about {'-' * (value < 0)}10^{int(value.bit_length() * math.log10(2))}"
    if isinstance(value, PLAIN):
        return _short.repr(value)
    if isinstance(value, Tensor | np.ndarray):
        return f"{with_article(type(value).__name__)} of shape {list(value.shape)} and {value.dtype}"
    if isinstance(value, list | tuple | dict | set | frozenset):
        held = chain.from_iterable(value.items()) if isinstance(value, dict) else value
        if all(isinstance(entry, PLAIN) for entry in islice(held, 2 * _short.maxlist)):
            return _short.repr(value)
        return f"{with_article(type(value).__name__)} of {len(value)}"
    return with_article(type(value).__name__)


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
