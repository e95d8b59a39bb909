"""Failures of a user's model or guide, told by site: what was found, what was expected, and the remedy of the cause."""

import math
import re
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppvae.batches import Batch, num_rows, tensors
from ppvae.particles import LEADING, PARTICLES, ROWS
from ppvae.refusals import ContractError, SupportError
from ppvae.sites import has_own_term, is_auxiliary


@contextmanager
def failures_explained(
    role: str,
    num_rows: int,
    num_particles: int | None = None,
    summed: Collection[str] = (),
    layout: str = LEADING,
) -> Iterator[None]:
    """Turns whatever fails inside into a `ContractError` that names the site.

    Args:
        role: "model" or "guide".
        num_rows: B.
        num_particles: K, where it has been seen to work without particles.
        summed: the sites given all their values at once, where it has been seen to work with one value for each.
        layout: of the particles.
    """
    reached = _LastSite()
    try:
        with reached:
            yield
    except ContractError:
        raise
    except Exception as error:
        raise ContractError(_explanation(role, num_rows, num_particles, summed, layout, error, reached.name)) from error


class _LastSite(Messenger):
    """Keeps the name of the last site of a run that got as far as to have a value."""

    name: str | None = None

    def _pyro_post_sample(self, msg: Message) -> None:
        if msg["name"] == PARTICLES:
            self.name = None  # a new run
        elif not site_is_subsample(msg):
            self.name = msg["name"]


def _explanation(
    role: str,
    num_rows: int,
    num_particles: int | None,
    summed: Collection[str],
    layout: str,
    error: Exception,
    reached: str | None,
) -> str:
    shape = f"[particles, batch] = [{num_particles}, {num_rows}]" if num_particles else f"[batch] = [{num_rows}]"
    if mismatch := re.search(r"inside plate\('(.+)'\) at site (.+) dim (-\d+), (\d+) vs (\d+)", str(error)):
        plate, site, dim, size, found = mismatch.groups()
        rows = num_rows * num_particles if num_particles and layout == ROWS else num_rows
        if dim == "-1" and int(found) == rows:  # as it should be
            return (
                f"{role} site '{site}': found plate '{plate}' of size {size}, expected {rows}, the number of "
                "rows it is run on; size the plate by the batch, as len(x) does"
            )
        return (
            f"{role} site '{site}': found size {found} at dim {dim} of its batch shape, expected batch shape {shape}; "
            "declare event dimensions with `.to_event(n)`, and let networks keep leading dimensions"
        )
    if "Multiple sample sites named" in str(error):
        return (
            f"{role}: found {error}, expected each name once; to open a plate twice, make it once: "
            "`rows = pyro.plate('data', len(x))`, then `with rows:` each time"
        )
    where = f"after site '{reached}'" if reached else "before its first site"
    said = str(error) or traceback.extract_tb(error.__traceback__)[-1].line or ""  # a bare assertion's own line
    found = f"{role}, {where}: found {type(error).__name__}: {without_tensors(said)}"
    if num_particles is None:
        remedy = ASSERTED if isinstance(error, AssertionError) else _remedy(said)
        return f"{found}; expected it to run on a batch of {num_rows} rows as it is; {remedy}"
    if summed:
        shape = "[values, 1]" if layout == ROWS else "[values, 1, 1]"
        return (
            f"{found}; expected it to take all values of {sorted(summed)} at once, as they are summed out: each has "
            f"shape {shape}, and its event's after it, so index or broadcast with it, as in `loc[c]` or "
            "`Vindex(loc)[..., c, :]`, and expand it and the others alike before `torch.cat`"
        )
    if layout == ROWS:
        return (
            f"{found}; expected it to run on a batch of {num_particles * num_rows} rows, as on one of {num_rows}; size "
            "plates and tensors by the batch, as len(x) does, and let the model keep nothing from the guide's run"
        )
    return (
        f"{found}; expected it to take latents of shape [particles, batch, *event] = [{num_particles}, {num_rows}, "
        "...], as it does [batch, *event]; a network in it cannot take leading dimensions: use `.flatten(-n)` rather "
        "than `.view(len(x), ...)`, expand x before `torch.cat` with z (`x.expand(*z.shape[:-1], -1)`), and wrap "
        "convolutions in ppvae.networks.Fold"
    )


def found_outside(name: str, site: Mapping[str, Any]) -> str:
    """What is said of a site that lies in no plate at dim -1."""
    if has_own_term(site):
        return (
            "found pyro.factor outside the data plate, expected a term of each row, inside it; what all rows share, as "
            "a penalty on parameters, is no part of a row's log p: leave it out, and let training subtract it, as a "
            "function `pair.penalty` (`pair.penalty = lambda: ...`), per data point, so divided by their number"
        )
    if is_auxiliary(site):
        return (
            "found one vector for the latents of all rows, as joint AutoGuides have it, expected latents of each row, "
            "for a weight per data point; take AutoNormal(model), which has parameters for each row, or write an "
            "amortized guide"
        )
    if loops := [frame.name for frame in site["cond_indep_stack"] if not frame.vectorized]:
        return (
            f"found outside any plate at dim -1, in a loop over plate '{loops[0]}', expected all rows in one "
            f"statement; write `with pyro.plate('{loops[0]}', len(x), dim=-1):` in place of the loop, and give the "
            "site its values of all rows"
        )
    found = (
        "found outside any plate at dim -1, expected inside the data plate; write `with pyro.plate('data', len(x), "
        "dim=-1):` around it"
    )
    if site["is_observed"]:
        return f"{found}, with all rows in one statement rather than one for each in a loop"
    return (
        f"{found}. A latent shared by all data points has no weight per data point: make it an nn.Parameter, or "
        f"measure at a given value with Pair.of(model, guide, example, condition={{'{name}': value}})"
    )


REMEDIES = {
    "positional argument|required keyword|unexpected keyword|multiple values for": (
        "model and guide take the same batch, a tensor as `model(x)`, a tuple as `model(*batch)`, a dict as "
        "`model(**batch)`; give it the entries that they name, in their order"
    ),
    "^'[^']*'$": (
        "does the function read an entry of this name? Give the batch one, and check the spelling"  # a KeyError
    ),
    "subsample_size|Cannot take a larger sample": (
        "a plate that draws a subsample of its own does not know the batch's rows: leave out subsample_size, and pass "
        "`subsample=idx` where it needs to know which rows they are"
    ),
    "same dtype|scalar type|dtype.* but|Index.*(long|integer)|to be (of|type).*(Long|Float)": (
        "convert the data, or what is made inside, to the dtype of the parameters (`x.float()`), and indices to "
        "integers (`.long()`)"
    ),
    "out of range|out of bounds|Class values must be": (
        "an index in the data lies outside the table that it looks up: are labels and tokens numbered from 0, and is "
        "the table large enough?"
    ),
    "cannot be multiplied|must match the|channels|size mismatch|invalid for input|normalized_shape|weight of size": (
        "does the network take data of this shape? Check the data's last dimensions against its first layer; images "
        "have channels before height and width"
    ),
    "same device|on device|different device": (
        "a tensor or network that the function takes from outside stays where it is: make it a buffer or a submodule "
        "of the pair, or a pyro.module, which move with it"
    ),
    "more than 1 value per channel": (
        "batch norm needs two rows or more in training: choose a batch_size that leaves no single row over"
    ),
}
"""What to do, by what an error says."""

ASSERTED = (
    "the data points are the rows, dimension 0 of each tensor, of any number: where they are at another dimension, as "
    "in [words, documents], pass the data transposed, and let model and guide transpose them back (`data = data.mT`)"
)
"""What to do where a function's own assertion fails, as of the data's shape."""

MOST_CATEGORIES = 100
"""Whole numbers from 1 up to this are taken for categories rather than gray levels."""


def _remedy(error: str) -> str:
    for pattern, remedy in REMEDIES.items():
        if re.search(pattern, error):
            return remedy
    if "nan" in error or "inf" in error.split() or "satisfy the constraint" in error:
        return "are data and parameters finite, scales above zero, and no logs or roots taken of negative numbers?"
    return "run the function by itself on these rows to see where it fails"


def without_tensors(error: str) -> str:
    """An error's message without the tensors that it prints."""
    error = re.sub(
        "but found invalid values:.*",
        lambda printed: "but found NaN" if "nan" in printed.group() else "but found invalid values",
        error,
        flags=re.DOTALL,
    )
    return re.sub(r"tensor\(\[.*?\]\)", "a tensor", error, flags=re.DOTALL)[:500]


def refuse_unlike_example(
    batch: Batch, example: Batch | None, error: ContractError, check_example: Callable[[int], Any]
) -> None:
    """Says that data on which a pair does not run are not like its example, if they are not, and it runs on that.

    Args:
        batch: the data.
        example: that of the pair.
        error: why the pair does not run on the data.
        check_example: raises a `ContractError` where it does not run on so many of its example either.
    """
    if example is None or isinstance(error, SupportError) or _is_own(error.__cause__):
        return
    found, expected = ({name: list(t.shape[1:]) for name, t in tensors(data).items()} for data in (batch, example))
    if found == expected:
        return
    try:
        check_example(num_rows(batch))
    except ContractError:
        return
    raise ContractError(
        f"data: found rows of shape {_of_one(found)}, expected {_of_one(expected)}, as in pair.example; "
        f"{_reshaping(batch, _of_one(expected))}, or make a pair for such data ({error})"
    ) from error


def _is_own(error: BaseException | None) -> bool:
    """Whether a part of this library has refused something, in its own words."""
    if not isinstance(error, ValueError):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("ppvae.")


def _reshaping(batch: Batch, expected: Any) -> str:
    """What makes the data of the expected shape, where it can be told."""
    named = tensors(batch)
    found = list(named.values())
    if isinstance(expected, dict) and (missing := [name for name in expected if name not in named]):
        return f"pass a tensor with a value for each data point as {' and '.join(map(repr, missing))}"
    if not isinstance(expected, list) or not found:
        return "reshape them"
    if len(found) > 1 and all(list(t.shape[1:]) == expected[1:] for t in found):
        return f"pass torch.stack(data), as a list of {len(found)} tensors is so many arguments"
    shape = list(found[0].shape[1:])
    if len(found) > 1 or math.prod(shape) != math.prod(expected):
        return "reshape them"
    if len(shape) == 3 and [shape[2], *shape[:2]] == expected:
        return "pass x.movedim(-1, 1)"
    return "pass x.flatten(1)" if len(expected) == 1 else f"pass x.reshape(-1, {', '.join(map(str, expected))})"


def into_support(x: Any) -> str:
    """What brings data into the support of their likelihood, where it can be told from the data."""
    if isinstance(x, Tensor) and x.numel() and x.isfinite().all() and x.min() >= 0:
        lowest, highest = x.min(), x.max()
        whole = bool((x == x.round()).all())
        if whole and lowest >= 1 and highest <= MOST_CATEGORIES:
            return "if these are categories or grades, number them from 0; or rescale the data"
        if 1 < highest <= 255 and whole:
            return "if these are images of bytes, pass x / 255; or rescale or binarize the data"
        if highest <= 1 and not whole:
            return "if these are gray levels, binarize them, as transform=torch.bernoulli of ppvae.fit does"
    if isinstance(x, Tensor) and not x.is_floating_point():
        return "if these are labels, number them from 0, and put any of them where one is missing"
    return "rescale or binarize the data, put any value inside it where a mask says that one is missing"


def _of_one(shapes: dict[str, list[int]]) -> Any:
    """The shape, where there is one without a name."""
    return shapes["0"] if list(shapes) == ["0"] else shapes
