import pickle

import pytest

from export.runtime.errors import BundleRefused, EnvironmentLacks, GateError, ImageRefused, UsageError


def test_an_error_says_what_was_expected_found_and_what_to_do() -> None:
    error = UsageError("no line", expected="a name", found="''", fix="Give one")
    assert str(error) == "no line: expected a name, found ''. Give one"
    assert str(UsageError("no line", fix="Give one")) == "no line. Give one"
    assert str(UsageError("no line", found="")) == "no line: found "


@pytest.mark.parametrize(
    ("kind", "code"),
    [(UsageError, 2), (GateError, 1), (EnvironmentLacks, 3), (BundleRefused, 1), (ImageRefused, 2)],
)
def test_each_kind_has_its_exit_code(kind: type[UsageError], code: int) -> None:
    assert kind("x").exit_code == code


def test_an_error_survives_the_way_out_of_a_worker_process() -> None:
    error = ImageRefused("bad", expected="good", found="worse", fix="Mend it")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (str(copy), copy.message, copy.fix) == (str(error), "bad", "Mend it")
