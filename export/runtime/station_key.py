"""The station's own key: what this station found out about itself, such as an engine it built, is signed by it."""

from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from export.runtime.errors import UsageError
from export.runtime.keys import load_private, new_key, public_path, write_public

NAME: Final = "station.key"


def station_key(store: Path) -> Ed25519PrivateKey:
    """Return the private key of the station whose folder is ``store``, made at first use.

    It lies in ``store``/station.key, readable by its owner alone; the public half lies beside it, with ``.pub``.

    Raises UsageError where it cannot be made or read.
    """
    path = store / NAME
    try:
        new_key(path)
    except UsageError:
        if not path.exists():  # else another process was first, or it was made long ago
            raise
    private = load_private(path)
    if not public_path(path).exists():  # whoever made it was stopped between the two
        with suppress(OSError):  # another process wrote it just now, or the folder is read-only
            write_public(path, private)
    return private
