"""Where Python keeps values besides attributes and containers; what cannot be watched, and objects that are odd."""

import argparse
import collections
import dataclasses
import enum
import functools
import itertools
import random
import types
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from ppvae.inference.compiling import kept_state
from ppvae.inference.compiling.inputs import CannotCompileError
from ppvae.inference.compiling.kept_places import differs
from ppvae.inference.compiling.kept_state import state_stays

count = 0
settings = types.ModuleType("settings")


class Slots:
    __slots__ = ("__weakref__", "empty", "number")

    def __init__(self):
        self.number = 0


@dataclasses.dataclass(frozen=True)
class Frozen:
    number: int = 0


class Phase(enum.Enum):
    FIRST = 1
    SECOND = 2


class Behind:
    """Keeps an attribute where a property of its name hides it."""

    def __init__(self):
        vars(self)["number"] = 0

    @property
    def number(self):
        return vars(self)["number"]


class Owner:
    """Of each place where a value may be kept, one."""

    number = 0

    def __init__(self):
        self.slots, self.frozen, self.phase, self.behind = Slots(), Frozen(), Phase.FIRST, Behind()
        self.fraction_like = collections.namedtuple("Pair", "a b")(1, 2)
        self.namespace, self.arguments = types.SimpleNamespace(number=0), argparse.Namespace(number=0)
        self.mapping, self.counter = collections.UserDict(number=0), collections.Counter(number=1)
        self.ordered = collections.OrderedDict(a=1, b=2)
        self.objects, self.bytes = np.array([{"number": 0}, None], dtype=object), bytearray(1)
        self.nan, self.fixed = np.array([1.0, np.nan]), np.array([1.0, np.nan])
        self.fixed.flags.writeable = False
        self.random, self.generator = random.Random(0), np.random.default_rng(0)
        self.old, self.torch = np.random.RandomState(0), torch.Generator().manual_seed(0)
        self.tensors, self.spread = [torch.zeros(2)], torch.zeros(1).expand(10**9)
        self.defaults, self.named = with_default(), with_named_default()
        self.known = cached()
        self.weak, self.gone = weakref.ref(Phase.FIRST), weakref.ref(Slots())

    def nested(self):
        def function():
            global count
            count += 1

        function()

    @property
    def asked(self):
        global count
        count += 1

    @staticmethod
    def called():
        global count
        count += 1

    @functools.cached_property
    def once(self):
        global count
        count += 1

    turned = functools.partialmethod(lambda self, state: state.append(1), [])

    def configured(self):
        settings.number += 1


def with_default():
    def function(state=[0]):  # noqa: B006
        state[0] += 1

    return function


def with_named_default():
    def function(*, state={"calls": 0}):  # noqa: B006
        state["calls"] += 1

    return function


def cached():
    calls = [0]

    @functools.lru_cache(maxsize=0)
    def function():
        calls[0] += 1
        return calls

    return function


CHANGES = {
    "slot": lambda o: setattr(o.slots, "number", 1),
    "empty slot": lambda o: setattr(o.slots, "empty", 1),
    "frozen dataclass": lambda o: setattr(o, "frozen", Frozen(1)),
    "enumeration": lambda o: setattr(o, "phase", Phase.SECOND),
    "namespace": lambda o: setattr(o.namespace, "number", 1),
    "arguments": lambda o: setattr(o.arguments, "number", 1),
    "user's dict": lambda o: o.mapping.update(number=1),
    "counter": lambda o: o.counter.update(["number"]),
    "ordered dict": lambda o: o.ordered.pop("a"),
    "object in an array": lambda o: o.objects[0].update(number=1),
    "array of objects": lambda o: o.objects.__setitem__(1, "new"),
    "bytes": lambda o: o.bytes.__setitem__(0, 1),
    "array with NaN": lambda o: o.nan.__setitem__(0, 2.0),
    "list of tensors that grows": lambda o: o.tensors.append(torch.zeros(2)),
    "tensor written to unversioned": lambda o: o.tensors[0].data.add_(1),
    "class": lambda o: setattr(type(o), "number", 1),
    "new in the class": lambda o: setattr(type(o), "other", 1),
    "function": lambda o: setattr(o.defaults, "calls", 1),
    "default": lambda o: o.defaults(),
    "named default": lambda o: o.named(),
    "cached function": lambda o: o.known(),
    "nested function": lambda o: o.nested(),
    "property": lambda o: o.asked,
    "static method": lambda o: o.called(),
    "cached property": lambda o: o.once,
    "partial method": lambda o: o.turned(),
    "method that is replaced": lambda o: setattr(Owner, "configured", print),
    "attribute behind a property": lambda o: vars(o.behind).update(number=1),
    "module": lambda o: o.configured(),
    "weak reference": lambda o: setattr(o, "weak", weakref.ref(Phase.SECOND)),
    "Python's generator": lambda o: random.random(),
    "NumPy's generator": lambda o: np.random.rand(),
    "random.Random": lambda o: o.random.random(),
    "numpy.random.Generator": lambda o: o.generator.random(),
    "numpy.random.RandomState": lambda o: o.old.rand(),
    "torch.Generator": lambda o: torch.randn(1, generator=o.torch),
}
STAYS = {
    "nothing": lambda o: None,
    "equal dataclass": lambda o: setattr(o, "frozen", Frozen()),
    "equal tuple": lambda o: setattr(o, "fraction_like", type(o.fraction_like)(1, 2)),
    "weak reference to what was gone": lambda o: setattr(o, "gone", weakref.ref(o.frozen)),
    "another tensor in an object that is made anew": lambda o: setattr(o, "slots", Slots()),
}


def kept(owner):
    own = {name: repr(v) for name, v in vars(owner).items() if name not in ("held", "once")}
    functions = [owner.defaults.__defaults__, vars(owner.defaults), owner.named.__kwdefaults__]
    generators = [owner.random.getstate(), owner.generator.bit_generator.state, owner.torch.get_state().tolist()]
    generators += [owner.old.get_state(), random.getstate(), np.random.get_state()]
    inner = [vars(owner.namespace), owner.slots.number, hasattr(owner.slots, "empty"), owner.tensors[0].tolist()]
    inner += [owner.behind.number, vars(Owner)["turned"].args, vars(Owner)["configured"]]
    inner += [owner.known.__wrapped__.__closure__[0].cell_contents, vars(Owner).get("number"), "other" in vars(Owner)]
    return repr((own, functions, generators, inner, count, settings.number))


@pytest.fixture
def owner():
    global count
    count, settings.number = 0, 0
    return Owner()


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_refused_and_set_back(name, owner):
    before = kept(owner)
    with (
        pytest.raises(CannotCompileError, match=r"found .*, expected what stays from call to call"),
        state_stays(owner),
    ):
        CHANGES[name](owner)
    assert kept(owner) == before


@pytest.mark.parametrize("name", STAYS)
def test_what_says_the_same_may_change(name, owner):
    with state_stays(owner):
        STAYS[name](owner)
        changed = kept(owner)
    assert kept(owner) == changed, "nothing is set back"


def test_an_iterator_is_refused_at_once(owner):
    owner.turns = itertools.cycle([0, 1])
    with pytest.raises(CannotCompileError, match=r"Owner\.turns: found a cycle"), state_stays(owner):
        pass
    assert next(owner.turns) == 0


class Odd:
    """Says nothing of itself without an error."""

    def __getattr__(self, name):
        raise KeyError(name)

    def __eq__(self, other):
        raise RuntimeError

    def __repr__(self):
        raise RuntimeError

    __hash__ = None


class Unequal:
    def __eq__(self, other):
        raise RuntimeError

    __hash__ = None


def test_odd_objects_change_nothing_for_others(owner):
    strange = type("Strange", (), {})
    strange.__module__ = 3
    owner.held = [Odd(), np.array([Unequal()], dtype=object), strange(), torch.eye(2).to_sparse(), nn.Linear(1, 1)]
    owner.empty = torch.empty(3, device="meta")
    before = kept(owner)
    with state_stays(owner):
        pass
    odd = owner.held[0]

    def change():
        owner.held[0] = Odd()
        owner.namespace.number = 1

    with pytest.raises(CannotCompileError), state_stays(owner):
        change()
    assert owner.held[0] is odd
    assert kept(owner) == before


def test_deep_and_endless_structures(owner):
    endless, deep = [], []
    endless.append(endless)
    for _ in range(5000):
        deep = [deep]
    owner.held, owner.endless = deep, endless
    with pytest.raises(CannotCompileError, match="number: found 1"), state_stays(owner):
        owner.namespace.number = 1
    other = []
    other.append(other)
    assert not differs(endless, other)


def test_where_there_is_too_much_nothing_is_compiled(owner):
    owner.corpus = [list(range(1000)) for _ in range(kept_state.MOST // 1000)]
    with pytest.raises(CannotCompileError, match=r"Owner\.corpus.*: found more than 100000 values"), state_stays(owner):
        pass
    owner.corpus = np.zeros(kept_state.MOST_BYTES // 8 + 1)
    with pytest.raises(CannotCompileError, match=r"Owner\.corpus: found arrays of more than 64 MB"), state_stays(owner):
        pass
    owner.corpus.flags.writeable = False
    with state_stays(owner):
        pass


def test_a_large_tensor_is_not_copied_and_writing_to_it_is_seen(owner):
    owner.table = torch.zeros(kept_state.MOST_BYTES // 4 + 1)
    with state_stays(owner):
        pass
    written = pytest.raises(CannotCompileError, match=r"Owner\.table: found a Tensor that a call writes to")
    with written, state_stays(owner):
        owner.table[0] = 1


def test_what_shows_a_parameters_memory_is_not_watched():
    module = nn.Linear(2, 2)
    module.shown = module.weight.detach()
    before = module.weight.detach().clone()
    with torch.no_grad(), state_stays(module):
        module.weight.add_(1)
    assert torch.equal(module.weight, before + 1)
