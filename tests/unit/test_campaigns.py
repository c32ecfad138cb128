"""The campaigns, shortened: each command runs, and finds nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.full


@pytest.mark.parametrize(
    ("name", "length", "counted"),
    [
        ("kill", ["--times", "5"], lambda found: found["equal_to_the_bit"] == 5),
        ("fuzz", ["--minutes", "0.15"], lambda found: found["trials"] > 20),
        ("soak", ["--minutes", "0.15"], lambda found: found["rounds"]["rounds"] > 3),
    ],
)
def test_a_short_campaign_finds_nothing(name, length, counted, tmp_path):
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", f"tests.campaigns.{name}", *length, "--out", str(out)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert counted(json.loads(out.read_text()))
