"""Make the corpora wordnet_nouns and wordnet_verbs: definitions of WordNet, labelled with their lexicographer file.

    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb wordnet
    python -m benchmarks.corpora.make_wordnet wordnet/usr/share/wordnet/data.noun > examples/data/wordnet_nouns.csv
    python -m benchmarks.corpora.make_wordnet wordnet/usr/share/wordnet/data.verb > examples/data/wordnet_verbs.csv

The text is a synset's gloss without the examples, the label the lexicographer file that the synset is from. At most
``--most`` texts of each label are taken, chosen by hash; no two of them have nearly the same words.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.corpora.sampling import choose, write_sample

# Numbers of lexicographer files, as in lexnames(5WN), of the labels in the two corpora.
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
    """Definitions and labels from the lines of a data file, whose format is described in wndb(5WN)."""
    for line in lines:
        if line.startswith(" "):  # the licence at the top of the file
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
    parser.add_argument("--most", type=int, default=400, help="how many texts per label to take at most")
    arguments = parser.parse_args()
    with arguments.data.open(encoding="utf-8") as file:
        write_sample(choose(glosses(file), tuple(LEXICOGRAPHER_FILES.values()), arguments.most))


if __name__ == "__main__":
    main()
