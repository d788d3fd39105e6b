import os
import stat
from pathlib import Path

import pytest

from export.runtime.errors import UsageError
from export.runtime.keys import key_id, load_trusted
from export.runtime.station_key import station_key


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    store = tmp_path / "new" / "store"
    first = station_key(store)
    assert station_key(store).private_bytes_raw() == first.private_bytes_raw()
    (public,) = load_trusted([store / "station.key.pub"])
    assert public == key_id(first.public_key())
    if os.name == "posix":
        assert stat.S_IMODE((store / "station.key").stat().st_mode) == 0o600


def test_a_public_half_that_is_missing_is_written_again(tmp_path: Path) -> None:
    identity = key_id(station_key(tmp_path).public_key())
    (tmp_path / "station.key.pub").unlink()
    assert key_id(station_key(tmp_path).public_key()) == identity
    assert set(load_trusted([tmp_path / "station.key.pub"])) == {identity}


def test_another_station_has_another_key(tmp_path: Path) -> None:
    keys = {station_key(tmp_path / name).private_bytes_raw() for name in "ab"}
    assert len(keys) == 2


def test_a_key_that_cannot_be_made_or_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="expected a free path"):
        station_key(tmp_path / "file")
    (tmp_path / "station.key").write_text("no key")
    with pytest.raises(UsageError, match="is not the key that is needed here"):
        station_key(tmp_path)
