"""The last parts that a bundle judged, as the log has them."""

from export.runtime.drift.reference import QUANTITIES
from export.runtime.log.history import History


def recent(history: History, bundle: str, number: int) -> dict[str, list[float]]:
    """Return each quantity's values of those of the last ``number`` parts that this bundle judged, in their order.

    Parts with a fault have none. Raises as ``History`` does.
    """
    entries = [entry for entry in reversed(history.last(number)) if entry.bundle == bundle]
    rows = [[getattr(entry, name) for name in QUANTITIES] for entry in entries]
    whole = [row for row in rows if None not in row]
    return {name: [row[column] for row in whole] for column, name in enumerate(QUANTITIES)}
