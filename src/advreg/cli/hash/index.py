"""`advreg hash index`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from advreg.cli.parsing import Parser

EXAMPLES = """\
examples:
  The database images of the run's own split, into runs/codes/index:
    advreg hash index runs/codes

  A folder of images of your own, with faiss's graph for millions of them:
    advreg hash index runs/codes --images photos --kind hnsw --out runs/photos

The index holds the codes and the images' names, never the images. exact and flat find the nearest
codes; ivf and hnsw may pass over some. All but exact need faiss: pip install 'advreg[faiss]'.
"""


def build_parser() -> Parser:
    """The parser of `advreg hash index`."""
    parser = Parser(
        prog="advreg hash index",
        description="Encodes images with a run's network into an index.",
        epilog=EXAMPLES,
    )
    parser.add_argument("folder", type=str, help="The run's folder.")
    text = "A folder of images, searched through; null takes the database of the run's split."
    parser.add_argument("--images", type=str | None, default=None, help=text)
    parser.add_argument("--kind", type=str, default="exact", help="exact, flat, ivf or hnsw.")
    text = "Where the index goes; null is the folder index of the run."
    parser.add_argument("--out", type=str | None, default=None, help=text)
    text = "Replace the index that is there."
    parser.add_argument("--overwrite", type=bool, default=False, help=text)
    text = "The module:function of a backbone of your own that the run was trained with."
    parser.add_argument("--model", type=str | None, default=None, help=text)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Makes an index."""
    options = build_parser().read(arguments)
    from pathlib import Path

    from rich.console import Console

    from advreg.files import as_argument, check_results
    from advreg.hashing.gallery import index_folder, index_split
    from advreg.hashing.run import load_hash_run
    from advreg.progress import Clock, ProgressBar

    found = load_hash_run(options.folder, options.model)
    out = found.folder.path / "index" if options.out is None else Path(options.out)
    check_results(out, "index.json", options.overwrite)
    with ProgressBar(Console(highlight=False), "encoding") as bar:
        clock = Clock(bar)
        if options.images is None:
            index = index_split(found, options.kind)
        else:
            index = index_folder(
                found,
                Path(options.images),
                options.kind,
                lambda done, total: clock.at(done, total, f"{done} of {total} images"),
            )
    index.save(out)
    facts = index.facts
    print(f"{facts.size} codes in {out}: {facts.layout}")
    folder, place = (shlex.quote(as_argument(path)) for path in (options.folder, out))
    print(f"Next: advreg hash search {folder} IMAGE --index {place}")
    return 0
