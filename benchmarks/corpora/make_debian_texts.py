"""Make unlabeled texts of the kind of the corpus debian_facets from a Debian package index.

    apt-cache dumpavail | python -m benchmarks.corpora.make_debian_texts --most 5000 > unlabeled.jsonl

They are the packages that the corpus lacks, most of which nobody tagged: what a student may learn from for nothing. One
package of each source package is taken, no text of nearly the same words as another or as one of the corpus, chosen by
hash.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.corpora.make_debian_sections import packages
from benchmarks.corpora.sampling import without_near_duplicates
from benchmarks.heads.questions import read_rows
from examples.corpora import DATA, by_hash


def main() -> None:
    """Read a package index from standard input and write JSON lines to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=DATA / "debian_facets.csv", help="texts that are left out")
    parser.add_argument("--most", type=int, default=5000, help="how many texts to take at most")
    arguments = parser.parse_args()

    known = [row["text"] for row in read_rows(arguments.corpus)]
    sources: set[str] = set()
    texts = []
    for package in packages(sys.stdin):
        description = package.get("Description-en") or package.get("Description")
        source = package.get("Source", package.get("Package", "")).split(" ")[0]
        if description and source not in sources:
            sources.add(source)
            texts.append(f"{package['Package']} - {description}")
    kept = without_near_duplicates([*known, *sorted(set(texts) - set(known), key=by_hash)])
    left_out = set(known)
    for text in [text for text in kept if text not in left_out][: arguments.most]:
        sys.stdout.write(f"{json.dumps({'text': text}, ensure_ascii=False)}\n")


if __name__ == "__main__":
    main()
