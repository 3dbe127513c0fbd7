"""Make the corpus debian_sections from a Debian package index.

    apt-cache dumpavail | python -m benchmarks.corpora.make_debian_sections > examples/data/debian_sections.csv

The text is a package's one-line description, the label its archive section. Only one package of each source package is
taken, so that near duplicates (``0ad``, ``0ad-data``) cannot fall into two parts of a split. At most ``--most`` texts
of each section are taken, chosen by hash.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import TextIO

from benchmarks.corpora.sampling import write_sample
from examples.corpora import by_hash

SECTIONS = ("games", "science", "net", "sound", "admin", "text", "graphics", "fonts")
_FIELD = re.compile(r"^(Package|Source|Section|Description|Description-(?:md5|en|de)): (.*)$", re.MULTILINE)


def packages(index: TextIO) -> Iterator[dict[str, str]]:
    """The stanzas of an index of packages or of translations, reduced to the fields that are used here."""
    for stanza in index.read().split("\n\n"):
        yield dict(_FIELD.findall(stanza))


def main() -> None:
    """Read a package index from standard input and write CSV to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", default=SECTIONS, help="archive sections to take")
    parser.add_argument("--most", type=int, default=560, help="how many texts per section to take at most")
    arguments = parser.parse_args()

    seen: set[str] = set()
    texts: dict[str, list[str]] = defaultdict(list)
    for package in packages(sys.stdin):
        text = package.get("Description-en") or package.get("Description")
        section = package.get("Section", "").split("/")[-1]
        source = package.get("Source", package.get("Package", "")).split(" ")[0]
        if text and section in arguments.sections and source not in seen and text not in seen:
            seen |= {source, text}
            texts[section].append(text)

    rows = [
        (text, section)
        for section in arguments.sections
        for text in sorted(texts[section], key=by_hash)[: arguments.most]
    ]
    write_sample(sorted(rows, key=lambda row: by_hash(row[0])))


if __name__ == "__main__":
    main()
