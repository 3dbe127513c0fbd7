"""Make a sample of WordNet's definitions, labelled by lexicographer file.

    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb wordnet
    python benchmarks/make_wordnet.py wordnet/usr/share/wordnet/data.noun > benchmarks/samples/wordnet_nouns.csv
    python benchmarks/make_wordnet.py wordnet/usr/share/wordnet/data.verb > benchmarks/samples/wordnet_verbs.csv

Text: a synset's gloss without the examples. Label: the lexicographer file that the synset comes from. At most
``--most`` of each label, chosen by hash; no two texts of nearly the same words.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from sampling import choose, write_sample

# The numbers of lexnames(5WN) for the labels that the samples have.
LEXICOGRAPHER_FILES = {
    5: "noun.animal",
    6: "noun.artifact",
    8: "noun.body",
    10: "noun.communication",
    13: "noun.food",
    15: "noun.location",
    18: "noun.person",
    20: "noun.plant",
    30: "verb.change",
    31: "verb.cognition",
    32: "verb.communication",
    35: "verb.contact",
    36: "verb.creation",
    38: "verb.motion",
    40: "verb.possession",
    41: "verb.social",
}
LEAST_WORDS = 4


def glosses(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Definitions and labels of a data file as wndb(5WN) describes it."""
    for line in lines:
        if line.startswith(" "):  # the licence, at the top
            continue
        fields, _, gloss = line.partition(" | ")
        label = LEXICOGRAPHER_FILES.get(int(fields.split(" ", 2)[1]))
        definition = gloss.partition('"')[0].strip(" ;:,\n")
        if label is not None and len(definition.split()) >= LEAST_WORDS:
            yield definition, label


def main() -> None:
    """Read a data file and write CSV to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="WordNet's data.noun or data.verb")
    parser.add_argument("--most", type=int, default=400, help="texts a label at most")
    arguments = parser.parse_args()
    with arguments.data.open(encoding="utf-8") as file:
        write_sample(choose(glosses(file), tuple(LEXICOGRAPHER_FILES.values()), arguments.most))


if __name__ == "__main__":
    main()
