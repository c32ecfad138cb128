"""Builds the documentation as a site, strictly: a warning or a dead link is an error.

The site has the folders of the repository, so that one link leads to the same page in both.

python tools/site_pages.py [FOLDER]    the site is in FOLDER/site; build without it
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
FILES = ("*.md", "LICENSE", "CITATION.cff", "docs/**/*", "benchmarks/README.md")
FILES += ("benchmarks/results/*.json", "examples/*", "studies/**/*", "results/**/*")
FILES += ("src/advreg/study/demo.yaml",)


def main(folder: Path = ROOT / "build") -> int:
    """Gathers the pages, builds the site and follows its links; the exit code."""
    for made in (folder / "pages", folder / "site"):
        shutil.rmtree(made, ignore_errors=True)
    gather(folder / "pages")
    settings = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    (folder / "zensical.toml").write_text(written_out(settings), encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    print(built.stdout, built.stderr, sep="")
    if built.returncode or "griffe:" in built.stdout + built.stderr:  # strict leaves these out
        return 1
    dead = dead_links(folder / "site")
    print("\n".join(dead) or f"The site is in {folder / 'site'}.")
    return 1 if dead else 0


def written_out(settings: str) -> str:
    """The settings with the pages that a glob in the navigation stands for, and whole paths."""

    def listed(glob: re.Match[str]) -> str:
        found = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(glob[1]))
        return "".join(f"{json.dumps(page)}, " for page in found)

    settings = settings.replace('paths = ["src"]', f"paths = [{json.dumps(str(ROOT / 'src'))}]")
    return re.sub(r'"([\w/]+\*\.md)"(?:, *)?', listed, settings)


def gather(pages: Path) -> None:
    """Copies the pages and what they show; scripts and notebooks become pages too."""
    for path in {path for pattern in FILES for path in ROOT.glob(pattern) if path.is_file()}:
        to = pages / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
            text = re.sub(r"(\]\([^)\s]*)\.(?:py|ipynb)\)", r"\1.md)", text)
            to.write_text(text, encoding="utf-8")
        elif path.suffix == ".py" and path.parent.name == "examples":
            code = path.read_text(encoding="utf-8")
            to.with_suffix(".md").write_text(f"# {path.name}\n\n{fenced('python', code)}\n")
        elif path.suffix == ".ipynb":
            to.with_suffix(".md").write_text(notebook_page(path, to.parent), encoding="utf-8")
            shutil.copy(path, to)
        else:
            shutil.copy(path, to)


def notebook_page(path: Path, folder: Path) -> str:
    """A notebook as a page; its pictures are written to the folder."""
    parts: list[str] = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(fenced("python", source) if cell["cell_type"] == "code" else source)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                picture = folder / f"{path.stem}-{len(parts)}.png"
                picture.write_bytes(base64.b64decode("".join(data["image/png"])))
                parts.append(f"![What the code above draws]({picture.name})")
            elif text := "".join(output.get("text", data.get("text/plain", []))):
                parts.append(fenced("text", text))
    return "\n\n".join(parts) + "\n"


def fenced(language: str, text: str) -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```"


class Links(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Takes one element."""
        values = {name: value for name, value in attrs if value}
        self.links += [values[name] for name in ("href", "src") if name in values]
        self.anchors |= {values[name] for name in ("id", "name") if name in values}


def dead_links(site: Path) -> list[str]:
    """Links within the site that lead nowhere, each as a sentence."""
    read = {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    dead = []
    for page, found in read.items():
        if page.name == "404.html":  # its links are those of the site's address
            continue
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            lost = anchor and not anchor.startswith("__") and target in read
            if not target.is_file() or (lost and anchor not in read[target].anchors):
                dead.append(f"{page.relative_to(site)} links to {link}, which is not there.")
    return dead


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
