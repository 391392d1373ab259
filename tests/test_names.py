import pytest

from robustad._names import suggestion


@pytest.mark.parametrize(
    ("given", "known", "end"),
    [
        ("robst", ["paper", "robust"], "; did you mean robust?"),
        ("attack.epochs", ["optimiser.epochs", "attack.eps"], "; did you mean optimiser.epochs?"),
        ("qqq", ["paper", "robust"], ""),
        ("", ["paper"], ""),
        ("paper", [], ""),
    ],
)
def test_the_nearest_name_is_offered_where_there_is_one(given, known, end):
    assert suggestion(given, known) == end
