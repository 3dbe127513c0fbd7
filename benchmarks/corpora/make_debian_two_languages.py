"""Make a sample in two languages from a Debian package index and its German translations.

    curl -O "$MIRROR/dists/bookworm/main/i18n/Translation-de.bz2" && bunzip2 Translation-de.bz2
    apt-cache dumpavail > index
    python benchmarks/make_debian_two_languages.py Translation-de < index > benchmarks/samples/debian_two_languages.csv

Text: a package's one-line description, in German for four archive sections, in English for four others. Label: the
section. One package of each source package, no two texts of nearly the same words; at most ``--most`` of each section,
chosen by hash.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from make_debian_sections import packages
from sampling import choose, write_sample

GERMAN = ("games", "sound", "admin", "text")
ENGLISH = ("science", "graphics", "net", "fonts")


def descriptions(index: Iterable[dict[str, str]], german_of: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The description and the section of one package of each source package.

    Args:
        index: Stanzas of the package index.
        german_of: Translations by the checksum of the original, so that none is of another version.
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
    """Read an index on standard input and write CSV to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("translations", type=Path, help="the archive's Translation-de, unpacked")
    parser.add_argument("--most", type=int, default=400, help="texts a section at most")
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
