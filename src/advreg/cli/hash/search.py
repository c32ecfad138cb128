"""`advreg hash search`."""

from __future__ import annotations

from collections.abc import Sequence

from advreg.cli.parsing import Parser
from advreg.errors import ConfigurationError

EXAMPLES = """\
examples:
  The ten nearest of the run's own database images, as a picture and as JSON:
    advreg hash index runs/codes
    advreg hash search runs/codes photo.png

  Of a folder of your own, indexed before; queries by their id in the run's data:
    advreg hash search runs/codes photo.png other.png --index runs/photos --k 20
    advreg hash search runs/codes 1203 --out found

The picture has a row for each image: the image, then the nearest ones, near to far. The JSON has
their names and distances in bits. Images are cut to a square and scaled to the network's size.
"""


def build_parser() -> Parser:
    """The parser of `advreg hash search`."""
    parser = Parser(
        prog="advreg hash search",
        description="Shows the images whose codes are nearest to those of some images.",
        epilog=EXAMPLES,
    )
    parser.add_argument("folder", type=str, help="The run's folder.")
    text = "Image files, or ids of images of the run's data."
    parser.add_argument("images", type=str, nargs="*", help=text)
    text = "An index of this run; null is the folder index of the run."
    parser.add_argument("--index", type=str | None, default=None, help=text)
    parser.add_argument("--k", type=int, default=10, help="Images to find for each one.")
    text = "Where search.png and search.json go; null is the run's folder."
    parser.add_argument("--out", type=str | None, default=None, help=text)
    text = "The module:function of a backbone of your own that the run was trained with."
    parser.add_argument("--model", type=str | None, default=None, help=text)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Searches."""
    options = build_parser().read(arguments)
    if not options.images:
        raise ConfigurationError("No image is named; name image files, or ids of the run's data.")
    import json
    from pathlib import Path

    from advreg.files import check_folder, replace_file
    from advreg.hashing.gallery import Gallery, draw_results
    from advreg.hashing.index import HammingIndex
    from advreg.hashing.run import load_hash_run

    found = load_hash_run(options.folder, options.model)
    folder = found.folder.path
    index = HammingIndex.load(folder / "index" if options.index is None else Path(options.index))
    index.check_network(found.identity)
    out = folder if options.out is None else Path(options.out)
    check_folder(out)
    gallery = Gallery(found)
    asked = gallery.load(options.images)
    results = index.search(found.network.encode(asked), options.k)
    rows = [
        {
            "query": name,
            "exact": results.exact,
            "nearest": [
                {"name": index.name(place), "distance": int(distance)}
                for place, distance in zip(places, distances, strict=True)
                if place >= 0
            ],
        }
        for name, places, distances in zip(
            options.images, results.places.tolist(), results.distances, strict=True
        )
    ]
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows, indent=1)
    replace_file(out / "search.json", lambda path: path.write_text(text, encoding="utf-8"))
    draw_results(out / "search.png", lambda name: gallery.load([name])[0], asked, rows)
    for row in rows:
        print(f"{row['query']}:")
        for near in row["nearest"]:
            print(f"  {near['distance']:3} bits  {near['name']}")
    print(f"Picture: {out / 'search.png'}   Figures: {out / 'search.json'}")
    return 0
