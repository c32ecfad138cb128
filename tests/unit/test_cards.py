"""Card, command line and class agree for every method."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml

from advreg.cli.train import build_parser
from advreg.errors import ConfigurationError
from advreg.methods import METHODS
from advreg.units import number

CARDS = Path(__file__).parents[2] / "docs" / "methods"
HEADINGS = ["Equation", "Cost", "Defaults", "When to use", "What to watch", "Source"]


def settings(method):
    """The class's settings and their defaults."""
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(method)
        if field.init
    }


def sections(name):
    """A card's text by heading; its first part by its title."""
    text = (CARDS / f"{name}.md").read_text()
    return {
        part.partition("\n")[0].strip(): part.partition("\n")[2].strip()
        for part in re.split(r"^#+ ", text, flags=re.MULTILINE)[1:]
    }


def defaults(text):
    """The table's defaults by setting, as they are written; a row is | `name` | `default` | … |."""
    return dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \| .+ \|$", text, flags=re.MULTILINE))


def meant(written, default):
    """What a default on a card stands for, read as the default in the class is."""
    if isinstance(default, float):
        try:
            return number(written)
        except ConfigurationError:
            return written
    return yaml.safe_load(written)


def test_every_method_has_a_card_with_its_parts_and_its_source():
    assert {path.stem for path in CARDS.glob("*.md")} == {*METHODS, "composed"}
    for name in METHODS:
        parts = sections(name)
        assert [heading for heading in parts if heading in HEADINGS] == HEADINGS
        assert all(parts[heading] for heading in HEADINGS)
        title = next(iter(parts))
        assert 2 <= len(re.findall(r"[.:!?](?:\s|$)", parts[title])) <= 4
        source = re.search(r"arXiv \d{4}\.\d{4,5}|\b(19|20)\d\d\b", parts["Source"])
        assert source or name == "standard"


@pytest.mark.parametrize("name", METHODS)
def test_card_class_and_command_line_agree_on_settings_and_defaults(name):
    written, real = defaults(sections(name)["Defaults"]), settings(METHODS[name])
    assert written.keys() == real.keys()
    assert {key: meant(written[key], real[key]) for key in written} == real
    parser = build_parser(name)
    given = parser.get_defaults(skip_validation=True).as_dict()["method"]
    assert given.pop("name") == name
    assert given == real
    actions = parser._option_string_actions
    for setting in real:
        assert len(str(actions[f"--method.{setting}"].help)) >= 8
