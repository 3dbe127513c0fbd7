"""Make a sample of the King James Version's verses, labelled by book.

    apt-get download bible-kjv bible-kjv-text && for file in bible-kjv*.deb; do dpkg-deb -x $file kjv; done
    kjv/usr/bin/bible -f -p kjv/usr/lib Gen1:1-Rev22:21 < /dev/null > verses.txt
    python benchmarks/make_kjv_books.py verses.txt > benchmarks/samples/kjv_books.csv

Text: a verse. Label: the book that it stands in. At most ``--most`` of each book, chosen by hash; no two verses of
nearly the same words.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from sampling import choose, write_sample

# Ten books of five kinds, two of each: history, law, poetry, prophets, New Testament. By the program's names for them.
BOOKS = {
    "Ge": "Genesis",
    "1Sm": "1 Samuel",
    "Lev": "Leviticus",
    "Num": "Numbers",
    "Psa": "Psalms",
    "Prv": "Proverbs",
    "Isa": "Isaiah",
    "Eze": "Ezekiel",
    "Mat": "Matthew",
    "Acts": "Acts",
}
LEAST_WORDS = 4
_VERSE = re.compile(r"(\d?[A-Za-z]+)\d+:\d+ (.+)")


def verses(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Verses and their books, of lines as ``bible -f`` writes them: ``1Sm17:4 And there went out a champion …``."""
    for line in lines:
        verse = _VERSE.match(line)
        if verse and verse[1] in BOOKS and len(verse[2].split()) >= LEAST_WORDS:
            yield verse[2].strip(), BOOKS[verse[1]]


def main() -> None:
    """Read verses and write CSV to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verses", type=Path, help="what the program wrote")
    parser.add_argument("--most", type=int, default=320, help="texts a label at most")
    arguments = parser.parse_args()
    with arguments.verses.open(encoding="utf-8") as file:
        write_sample(choose(verses(file), tuple(BOOKS.values()), arguments.most))


if __name__ == "__main__":
    main()
