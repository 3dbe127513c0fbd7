"""Make the corpus debian_two_languages from a Debian package index and its German translations.

    curl -O "$MIRROR/dists/bookworm/main/i18n/Translation-de.bz2" && bunzip2 Translation-de.bz2
    apt-cache dumpavail > index
    python -m benchmarks.corpora.make_debian_two_languages Translation-de < index \
        > examples/data/debian_two_languages.csv

The text is a package's one-line description, in German for four archive sections and in English for four others; the
label is the section. Only one package of each source package is taken, and no two texts of nearly the same words. At
most ``--most`` texts of each section are taken, chosen by hash.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.corpora.make_debian_sections import packages
from benchmarks.corpora.sampling import choose, write_sample

GERMAN = ("games", "sound", "admin", "text")
ENGLISH = ("science", "graphics", "net", "fonts")


def descriptions(index: Iterable[dict[str, str]], german_of: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Description and section of one package of each source package.

    Args:
        index: Stanzas of the package index.
        german_of: German descriptions by the checksum of the English one, so that none belongs to another version.
    """
    seen: set[str] = set()
    for package in index:
        section = package.get("Section", "").split("/")[-1]
        source = package.get("Source", package.get("Package", "")).split(" ")[0]
        english = package.get("Description-en") or package.get("Description")
        text = german_of.get(package.get("Description-md5", "")) if section in GERMAN else english
        if text and section in GERMAN + ENGLISH and source not in seen:
            seen.add(source)
            yield text, section


def main() -> None:
    """Read a package index from standard input and write CSV to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("translations", type=Path, help="the archive's file Translation-de, unpacked")
    parser.add_argument("--most", type=int, default=400, help="how many texts per section to take at most")
    arguments = parser.parse_args()
    with arguments.translations.open(encoding="utf-8") as file:
        german_of = {
            package["Description-md5"]: package["Description-de"]
            for package in packages(file)
            if "Description-de" in package
        }
    write_sample(choose(descriptions(packages(sys.stdin), german_of), GERMAN + ENGLISH, arguments.most))


if __name__ == "__main__":
    main()
