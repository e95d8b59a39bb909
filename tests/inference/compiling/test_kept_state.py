"""What Python keeps from call to call is found when it changes, and set back, as a program would not see it change."""

import functools
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from ppvae.inference.compiling.inputs import CannotCompileError
from ppvae.inference.compiling.kept_state import state_stays

count = 0


class Counter:
    def __init__(self):
        self.calls = 0


class Module(nn.Module):
    """Of everything that may be kept, one."""

    def __init__(self):
        super().__init__()
        self.number, self.numpy_number, self.label = 1, np.int64(1), None
        self.mapping, self.list, self.queue, self.set = {"t": 0}, [1], deque([1], maxlen=3), {1}
        self.nested = {"a": [{"b": 0}]}
        self.array, self.tensor = np.zeros(2), torch.zeros(2)
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.learned = nn.Parameter(torch.zeros(2))
        self.register_buffer("buffer", torch.zeros(2))
        self.others = [nn.BatchNorm1d(1)]  # which are no modules of this one
        self.all = [self.learned, self.buffer]  # as recurrent networks keep them
        self.helper = Counter()
        self.part = functools.partial(self._counted, Counter())
        self.function = closure()

    def _counted(self, counter):
        counter.calls += 1

    def counts(self):
        global count
        count += 1


def closure():
    calls = 0

    def function():
        nonlocal calls
        calls += 1
        return calls

    return function


CHANGES = {
    "number": lambda m: setattr(m, "number", 2),
    "its type alone": lambda m: setattr(m, "number", 1.0),
    "NumPy's number": lambda m: setattr(m, "numpy_number", m.numpy_number + 1),
    "number that is new": lambda m: setattr(m, "other", 2),
    "mode": lambda m: m.eval(),
    "mode of a module in a list": lambda m: m.others[0].eval(),
    "its parameter": lambda m: m.others[0].weight.fill_(2),
    "dict": lambda m: m.mapping.update(t=1),
    "list": lambda m: m.list.append(2),
    "shorter list": lambda m: m.list.pop(),
    "attribute that is deleted": lambda m: delattr(m, "number"),
    "another list": lambda m: setattr(m, "list", [2]),
    "deque": lambda m: m.queue.append(2),
    "set": lambda m: m.set.add(2),
    "nested": lambda m: m.nested["a"][0].update(b=1),
    "array": lambda m: m.array.fill(1.0),
    "tensor written to": lambda m: m.tensor.add_(1),
    "frozen parameter": lambda m: m.frozen.add_(1),
    "object": lambda m: setattr(m.helper, "calls", 1),
    "partial": lambda m: m.part(),
    "closure": lambda m: m.function(),
    "global": lambda m: m.counts(),
}
STAYS = {
    "nothing": lambda m: None,
    "learned parameter": lambda m: m.learned.add_(1),
    "buffer": lambda m: m.buffer.add_(1),
    "tensor that is new": lambda m: setattr(m, "last", torch.ones(2)),
    "label that is set once": lambda m: setattr(m, "label", torch.ones(2)),
    "equal list": lambda m: setattr(m, "list", [1]),
    "tensor assigned anew, without a look at the old": lambda m: setattr(m, "tensor", torch.ones(2)),
}


def kept(module):
    listed = [m.training for m in module.others], [m.weight.tolist() for m in module.others]
    return repr(sorted((name, repr(v)) for name, v in vars(module).items() if name not in ("function", "part"))), (
        [listed, vars(module.helper), vars(module.part.args[0]), module.function.__closure__[0].cell_contents, count],
        [module.array.tolist(), module.tensor.tolist(), module.frozen.tolist()],
    )


def call(change, module, met=()):
    """What changes a module, watched; with the tensors that a trace has met."""
    with torch.no_grad(), state_stays(module) as found:
        found.extend(met)
        change(module)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_refused_and_set_back(name):
    module = Module()
    before = repr(kept(module))
    with pytest.raises(CannotCompileError, match=r"found .*, expected what stays from call to call"):
        call(CHANGES[name], module)
    assert repr(kept(module)) == before


@pytest.mark.parametrize("name", STAYS)
def test_what_no_later_call_depends_on_may_change(name):
    module, seen = Module(), []

    def change(module):
        STAYS[name](module)
        seen.append(repr(kept(module)))

    call(change, module, [torch.zeros(2)])
    assert seen == [repr(kept(module))]


def test_a_tensor_assigned_anew_is_refused_where_the_trace_met_the_old_one():
    module = Module()
    old = module.tensor
    with pytest.raises(CannotCompileError, match=r"Module\.tensor: found a Tensor"):
        call(lambda m: setattr(m, "tensor", m.tensor + 1), module, [old])
    assert module.tensor is old


def fails(error):
    def change(module):
        module.number = 2
        raise error

    return change


def test_what_changed_explains_another_error():
    with pytest.raises(CannotCompileError, match=r"Module\.number: found 2 after 1") as caught:
        call(fails(CannotCompileError("the bounds differ")), Module())
    assert "the bounds differ" in str(caught.value.__cause__)


def test_other_errors_pass_once_all_is_set_back():
    module = Module()
    with pytest.raises(ZeroDivisionError):
        call(fails(ZeroDivisionError()), module)
    assert module.number == 1
