import inspect
import pickle

import pytest

from robustad import errors
from robustad.errors import RobustadError

KINDS = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and value is not RobustadError
]


def test_there_are_kinds():
    assert len(KINDS) == 8


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_is_ours_and_a_usual_one(kind):
    assert issubclass(kind, RobustadError)
    assert issubclass(kind, ValueError | RuntimeError | ImportError)
    again = pickle.loads(pickle.dumps(kind("bank: expected a tensor")))
    assert type(again) is kind
    assert str(again) == "bank: expected a tensor"
    assert kind.__doc__
