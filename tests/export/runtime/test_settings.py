from pathlib import Path

import pytest

from export.runtime.errors import UsageError
from export.runtime.settings import ProbationSettings, Settings, read_settings


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == Settings()
    assert Settings().fault == "review"


def test_what_is_written_replaces_its_default_alone(tmp_path: Path) -> None:
    (tmp_path / "station.toml").write_text('fault = "reject"\n[probation]\nslow_parts = 3\n[log]\nkeep_passes = 1\n')
    found = read_settings(tmp_path)
    assert found.fault == "reject"
    assert found.probation == ProbationSettings(slow_parts=3)
    assert (found.log.keep_passes, found.watch) == (1.0, Settings().watch)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fault = ", "cannot read"),
        ('fault = "pass"', 'expected "review" or "reject", found "pass"'),
        ("faults = 1", "unknown 'faults'"),
        ("log = 1", "expected an object, found 1"),
        ("[log]\nkeep_passes = 1.5", "keep_passes from 0 to 1"),
        ("[log]\nkeep_passes = true", "expected a number, found true"),
        ("[log]\npictures_mb = -1", "pictures_mb of 0 or more"),
        ("[log]\ndays = 3", "unknown 'days'"),
        ("[watch]\nsettle_ms = 5000", "settle_ms from 0 to"),
        ("[probation]\nslow_parts = 0", "slow_parts of 1 or more"),
        ("[drift]\none_in = 0", "one_in of 1 or more"),
        ("[drift]\nparts_between_false_alarms = 1", "100 or more"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "station.toml").write_text(text)
    with pytest.raises(UsageError) as error:
        read_settings(tmp_path)
    assert said in str(error.value) and "station.toml" in str(error.value)
