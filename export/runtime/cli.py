"""The command ``station``: what an inspection station does with signed model bundles."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from export.runtime.commands import bundles, drifting, installing, records, serving, timing, trusting, watching
from export.runtime.commands.common import keys_parser, say
from export.runtime.errors import EnvironmentLacks, FactoryError, UsageError

_INTERRUPTED = 130
_BROKEN_PIPE = 141
_NOT_WRITTEN = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0 done, 1 a verification or a budget failed or a picture could not be inspected, 2 wrong usage, 3 this machine
    lacks something; 130 after Ctrl-C, 141 where the reader of the output went away.
    """
    options = _parsed(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except FactoryError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        say("stopped")
        return _INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more on exit, which would print the error after all.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except OSError as error:
        told = _told(error)
        say(f"error: {told}")
        return told.exit_code
    return code


def _told(error: OSError) -> FactoryError:
    found, where = error.strerror or str(error), f": {error.filename}" if error.filename else ""
    if error.errno in _NOT_WRITTEN:
        return EnvironmentLacks(
            "nothing can be written there",
            expected="a place that can be written, with space left",
            found=f"{found}{where}",
            fix="Free some space, or name another folder, such as the station's by --store",
        )
    return UsageError(f"cannot use {error.filename}", found=found, fix="Check the path and its permissions")


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    # argparse takes paths from one side of an option alone: `inspect BUNDLE --trust KEY PICTURE` has some on both.
    if others and (not hasattr(options, "paths") or any(text.startswith("-") for text in others)):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if others:
        options.paths += map(Path, others)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="station", description="Inspect pictures by a signed model bundle.")
    commands = parser.add_subparsers(dest="command", required=True)
    keys = keys_parser()
    for module in (bundles, drifting, installing, records, serving, timing, trusting, watching):
        module.add(commands, keys)
    return parser


if __name__ == "__main__":
    sys.exit(main())
