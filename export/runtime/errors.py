"""The errors a user may meet, each with its exit code and its three answers."""

from typing import ClassVar


class FactoryError(Exception):
    """An error told to the user in plain words, without a traceback.

    ``str()`` gives ``message: expected X, found Y. Fix``; the parts not given are left out.
    """

    exit_code: ClassVar[int] = 2

    def __init__(
        self,
        message: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.message = message
        self.expected = expected
        self.found = found
        self.fix = fix
        super().__init__(explain(message, expected=expected, found=found, fix=fix))


class UsageError(FactoryError):
    """The command, its arguments or its input files are wrong (exit code 2)."""


class GateError(FactoryError):
    """A gate or a verification failed (exit code 1)."""

    exit_code = 1


class EnvironmentLacks(FactoryError):  # noqa: N818
    """This machine lacks something the work needs (exit code 3)."""

    exit_code = 3


class BundleRefused(GateError):  # noqa: N818
    """A bundle is not exactly what a trusted key signed, or contradicts itself."""


class ImageRefused(UsageError):  # noqa: N818
    """A picture cannot be read without guessing at what it means."""


def explain(message: str, *, expected: str | None, found: str | None, fix: str | None) -> str:
    """Return one text from the parts of an error, skipping those that are None."""
    facts = [f"{name} {fact}" for name, fact in (("expected", expected), ("found", found)) if fact is not None]
    text = f"{message}: {', '.join(facts)}" if facts else message
    return f"{text}. {fix}" if fix else text
