"""What an extra brings is imported when it is used, and named where it is missing."""

import pytest

from advreg.errors import AdvregError, MissingExtraError
from advreg.extras import needs, require


def test_what_is_installed_is_imported():
    import json.decoder

    assert require("json.decoder", extra="cli", what="this test") is json.decoder


def test_what_is_missing_is_one_sentence_with_the_command():
    with pytest.raises(MissingExtraError) as raised:
        require("no_such_package.part", extra="lightning", what="the Lightning callback")
    assert str(raised.value) == (
        "The Lightning callback needs no_such_package, which is not installed;"
        ' run: pip install "advreg[lightning]"'
    )
    assert isinstance(raised.value, AdvregError)


def test_what_is_there_and_does_not_import_says_why(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("from json import no_such_name")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match=r"stops \(cannot import name 'no_such_name'"):
        require("half_installed", extra="cli", what="this test")


def test_a_part_within_a_part_names_its_own_extra():
    page = pytest.raises(MissingExtraError, match=r"^A page needs no_such_package.*\[report\]")
    with page, needs("cli", "a command"):
        require("no_such_package", extra="report", what="a page")
