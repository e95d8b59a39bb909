"""Where processes meet: in a store, here one that two threads of this process share."""

import itertools
import threading
from datetime import timedelta

import pytest
import torch.distributed as dist

from ppvae.inference.runtime import meeting
from ppvae.inference.runtime.meeting import ProcessesError, meet, refuse_differences

NUMBERS = itertools.count(1000)


@pytest.fixture
def store():
    """A store with a short time-out, and meetings with a number that no other test has."""
    kept = meeting._Meetings.number, meeting._Meetings.kept, meeting._Meetings.announced
    meeting._Meetings.number, meeting._Meetings.kept, meeting._Meetings.announced = next(NUMBERS), [], True
    own = dist.HashStore()
    own.set_timeout(timedelta(seconds=0.3))
    yield own
    meeting._Meetings.number, meeting._Meetings.kept, meeting._Meetings.announced = kept


def tell(store, number, rank, told):
    store.set(f"ppvae/{number}/{rank}", told)


def test_all_come_with_the_same(store):
    number = meeting._Meetings.number
    tell(store, number, 1, '{"call": "", "settings": {"lr": "0.1", "bound": 1.0}}')
    meet(0, 2, {"lr": "0.1", "bound": 1.0000001}, store=store)
    assert meeting._Meetings.number == number + 1


def test_one_that_does_not_come_is_named_and_may_come_later(store):
    number = meeting._Meetings.number
    with pytest.raises(ProcessesError, match=r"no word from process 1 in 0 s, expected all 2 processes .*timeout="):
        meet(0, 2, {}, store=store)
    assert meeting._Meetings.number == number
    assert not store.check([f"ppvae/{number}/0"])
    tell(store, number, 1, '{"call": "", "settings": {}}')
    meet(0, 2, {}, store=store)


def test_one_that_has_ended_is_not_waited_for(store):
    store.set_timeout(timedelta(seconds=60))
    store.set("ppvae/ended/2", "")
    tell(store, meeting._Meetings.number, 1, '{"call": "", "settings": {}}')
    with pytest.raises(ProcessesError, match="found process 2 ended"):
        meet(0, 3, {}, store=store)


def test_an_error_of_one_is_told(store):
    tell(store, meeting._Meetings.number, 1, '{"call": "fit", "settings": {}, "error": "ValueError: lr"}')
    with pytest.raises(ProcessesError, match=r"found an error in process 1 \(ValueError: lr\)"):
        meet(0, 2, {}, store=store)


def test_other_calls_are_named(store):
    tell(store, meeting._Meetings.number, 1, '{"call": "gap", "settings": {}}')
    with pytest.raises(ProcessesError, match="found gap in process 1 and  in process 0"):
        meet(0, 2, {}, store=store)


def test_what_is_left_in_the_store_does_not_grow(store):
    start = meeting._Meetings.number
    for number in range(start, start + 5):
        tell(store, number, 1, '{"call": "", "settings": {}}')
        meet(0, 2, {}, store=store)
    assert [store.check([f"ppvae/{number}/0"]) for number in range(start, start + 5)] == [False] * 4 + [True]


def test_differences_name_processes():
    same = {"seed": "0", "bound": -3.0}
    refuse_differences("fit", [same, same | {"bound": -3.0001}])
    with pytest.raises(ValueError, match=r"fit: lr: found 0.2 in processes 1, 2 and 0.1 in process 0, expected"):
        refuse_differences("fit", [same | {"lr": lr} for lr in ("0.1", "0.2", "0.2")])
    with pytest.raises(ValueError, match=r"bound: found -2.9 in process 1 and -3.0 in process 0"):
        refuse_differences("fit", [same, same | {"bound": -2.9}])
    with pytest.raises(ValueError, match=r"ema: found none in process 1 and 0.9 in process 0"):
        refuse_differences("fit", [same | {"ema": "0.9"}, same])


def test_an_interrupted_wait_leaves_nothing(store):
    number = meeting._Meetings.number
    store.set_timeout(timedelta(seconds=60))
    assert threading.current_thread() is threading.main_thread()

    class Interrupting:
        def __getattr__(self, name):
            return getattr(store, name)

        def check(self, keys):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        meet(0, 2, {}, store=Interrupting())
    assert not store.check([f"ppvae/{number}/0"])
    assert meeting._Meetings.number == number
