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


@pytest.mark.parametrize("name", METHODS)
def test_card_has_its_parts(name):
    parts = sections(name)
    assert [heading for heading in parts if heading in HEADINGS] == HEADINGS
    assert all(parts[heading] for heading in HEADINGS)
    title = next(iter(parts))
    sentences = re.findall(r"[.:!?](?:\s|$)", parts[title])
    assert 2 <= len(sentences) <= 4


@pytest.mark.parametrize("name", METHODS)
def test_card_and_class_agree_on_settings_and_defaults(name):
    written, real = defaults(sections(name)["Defaults"]), settings(METHODS[name])
    assert written.keys() == real.keys()
    assert {key: meant(written[key], real[key]) for key in written} == real


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_is_on_the_command_line_with_its_default(name):
    parser = build_parser(name)
    given = parser.get_defaults(skip_validation=True).as_dict()["method"]
    assert given.pop("name") == name
    assert given == settings(METHODS[name])
    help_text = parser.format_help()
    for setting in settings(METHODS[name]):
        assert re.search(rf"--method\.{setting}\b", help_text)


def test_every_card_is_of_a_method():
    assert {path.stem for path in CARDS.glob("*.md")} == {*METHODS, "composed"}


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"standard"}))
def test_card_names_its_source(name):
    assert re.search(r"arXiv \d{4}\.\d{4,5}|\b(19|20)\d\d\b", sections(name)["Source"])
