"""Make the corpus debian_facets, whose texts have several gold columns, from a Debian package index.

    apt-cache dumpavail | python -m benchmarks.corpora.make_debian_facets > examples/data/debian_facets.csv

The text is a package as `apt-cache search` shows it: its name and its one-line description. The columns come from its
archive section and its debtags; ``FACETS`` says what each may hold. A cell of a facet that is ``multi`` has any number
of values, joined by ";", and may be empty: a library has no interface. A program whose interface or use nobody tagged
is left out.
Only one package of each source package is taken, and no two texts of nearly the same words. At most ``--most``
libraries of one language are taken, chosen by hash: most that are tagged are Perl's.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TextIO

from benchmarks.corpora.sampling import without_near_duplicates
from examples.corpora import by_hash

SEPARATOR = ";"
OTHER = "other"
PLUGIN = "plugin"
SECTIONS = (
    "admin", "devel", "games", "graphics", "java", "libdevel", "lisp", "net", "perl", "python", "science", "sound",
    "text", "utils", "web", "x11", OTHER,
)  # fmt: skip
USES = (
    "analysing", "browsing", "chatting", "checking", "configuring", "converting", "downloading", "editing",
    "gameplaying", "learning", "monitor", "organizing", "playing", "searching", "storing", "synchronizing", "viewing",
)  # fmt: skip
LIBRARY_SECTIONS = ("libs", "libdevel", "oldlibs")
LIBRARY_ROLES = ("shared-lib", "devel-lib")
_FIELD = re.compile(r"^(Package|Source|Section|Description|Description-en|Tag): (.*(?:\n .*)*)$", re.MULTILINE)

Tags = Mapping[str, list[str]]


@dataclass(frozen=True)
class Facet:
    """A question about a package.

    Attributes:
        tags: The debtags facet that answers it; empty where something else does.
        values: The answers; others are ``other`` where there is one answer, and left out where there are several.
        multi: Whether a package may have any number of the answers.
    """

    tags: str
    values: tuple[str, ...]
    multi: bool = False


FACETS = {
    "section": Facet("", SECTIONS),
    "library": Facet("", ("library", OTHER)),
    "language": Facet("implemented-in", ("c", "c++", "java", "lisp", "perl", "python", "shell", OTHER)),
    "role": Facet("role", ("program", "devel-lib", "shared-lib", PLUGIN, OTHER)),
    "interface": Facet("interface", ("commandline", "graphical", "text-mode", "daemon", "web", "3d"), multi=True),
    "use": Facet("use", USES, multi=True),
}


def packages(index: TextIO) -> Iterator[tuple[dict[str, str], Tags]]:
    """The tagged packages of an index: the fields that are used here, and the debtags by facet."""
    for stanza in index.read().split("\n\n"):
        fields = dict(_FIELD.findall(stanza))
        if "Package" in fields and "Tag" in fields:
            tags: dict[str, list[str]] = defaultdict(list)
            for facet, separator, value in (tag.strip().partition("::") for tag in fields["Tag"].split(",")):
                if separator and value != "TODO":
                    tags[facet].append(value)
            yield fields, tags


def answers(fields: Mapping[str, str], tags: Tags) -> dict[str, str] | None:
    """The cell of each facet, or None if the package is not tagged well enough to tell."""
    section, roles = fields.get("Section", "").split("/")[-1], tags.get("role", [])
    is_library = section in LIBRARY_SECTIONS or any(role in LIBRARY_ROLES for role in roles)
    known = {
        "section": [section],
        "library": ["library" if is_library else OTHER],
        **{name: tags.get(facet.tags, []) for name, facet in FACETS.items() if facet.tags},
        "role": [PLUGIN] if PLUGIN in roles else roles,  # plugins are often tagged as programs, or as libraries, too
    }
    cells = {}
    for name, facet in FACETS.items():
        found = [value for value in facet.values if value in known[name]]
        if facet.multi and (found or "program" not in roles):
            cells[name] = SEPARATOR.join(found)
        elif not facet.multi and len(known[name]) == 1:
            cells[name] = found[0] if found else OTHER
        else:
            return None
    return cells


def rows(index: TextIO, most: int) -> Iterator[dict[str, str]]:
    """The rows of the corpus, in the order of the texts' hashes; see the top of this file."""
    cells_of: dict[str, dict[str, str]] = {}
    sources: set[str] = set()
    for fields, tags in packages(index):
        description = fields.get("Description-en") or fields.get("Description")
        source = fields.get("Source", fields["Package"]).split(" ")[0]
        cells = answers(fields, tags)
        if description and cells and source not in sources:
            sources.add(source)
            cells_of[f"{fields['Package']} - {description.splitlines()[0]}"] = cells
    room: Counter[tuple[str, str]] = Counter()
    for text in without_near_duplicates(sorted(cells_of, key=by_hash)):
        kind = cells_of[text]["library"], cells_of[text]["language"]
        room[kind] += 1
        if kind[0] == OTHER or room[kind] <= most:
            yield {"text": text, **cells_of[text]}


def write(found: Iterable[Mapping[str, str]], file: TextIO = sys.stdout) -> None:
    """Write rows as CSV."""
    writer = csv.DictWriter(file, ["text", *FACETS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)


def main() -> None:
    """Read a package index from standard input and write CSV to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=700, help="how many libraries of one language to take at most")
    write(rows(sys.stdin, parser.parse_args().most))


if __name__ == "__main__":
    main()
