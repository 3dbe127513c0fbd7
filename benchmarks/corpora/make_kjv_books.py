"""Make the corpus kjv_books: verses of the King James Version, labelled with their book.

    apt-get download bible-kjv bible-kjv-text && for file in bible-kjv*.deb; do dpkg-deb -x $file kjv; done
    kjv/usr/bin/bible -f -p kjv/usr/lib Gen1:1-Rev22:21 < /dev/null > verses.txt
    python -m benchmarks.corpora.make_kjv_books verses.txt > examples/data/kjv_books.csv

The text is a verse, the label the book that it is from. At most ``--most`` verses of each book are taken, chosen by
hash; no two of them have nearly the same words.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.corpora.sampling import choose, write_sample

# Ten books of five kinds, two of each: history, law, poetry, prophets, New Testament. Keys are the program's names.
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
    """Verses and their books, from lines as ``bible -f`` writes them: ``1Sm17:4 And there went out a champion …``."""
    for line in lines:
        verse = _VERSE.match(line)
        if verse and verse[1] in BOOKS and len(verse[2].split()) >= LEAST_WORDS:
            yield verse[2].strip(), BOOKS[verse[1]]


def main() -> None:
    """Read verses and write CSV to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verses", type=Path, help="the output of the program bible")
    parser.add_argument("--most", type=int, default=320, help="how many verses per book to take at most")
    arguments = parser.parse_args()
    with arguments.verses.open(encoding="utf-8") as file:
        write_sample(choose(verses(file), tuple(BOOKS.values()), arguments.most))


if __name__ == "__main__":
    main()
