"""The labelled corpora: how their sources are read, how texts are chosen, how they are split."""

import csv
import io
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.common.errors import UnavailableError
from benchmarks.corpora import (
    clinc150,
    make_debian_facets,
    make_debian_two_languages,
    make_kjv_books,
    make_wordnet,
    sampling,
)
from benchmarks.corpora.make_debian_sections import packages
from examples import corpora

SENTENCES = st.lists(
    st.lists(st.sampled_from(["a", "Bee", "see", "the", "sea", "12"]), min_size=1, max_size=6).map(" ".join),
    max_size=12,
)


def words(text: str) -> set[str]:
    return set(re.findall("[a-z]+", text.lower()))


def alike(one: str, other: str) -> float:
    return len(words(one) & words(other)) / len(words(one) | words(other))


@given(SENTENCES)
def test_what_is_kept_has_no_twin_and_what_is_left_out_has_one(texts):
    expected: list[str] = []  # every pair compared, without the short cut over rare words
    for text in texts:
        if words(text) and all(alike(text, other) < 0.6 for other in expected):
            expected.append(text)
    assert list(sampling.without_near_duplicates(texts)) == expected


def test_texts_are_chosen_by_hash_whatever_their_order():
    names = ["ant", "bear", "crow", "deer", "eel", "fox", "goat", "hare"]
    candidates = [(name, "even" if len(name) % 2 == 0 else "odd") for name in names]
    chosen = sampling.choose(candidates, ("even", "odd"), 2)
    assert chosen == sampling.choose(candidates[::-1], ("even", "odd"), 2)
    assert Counter(label for _, label in chosen) == {"even": 2, "odd": 2}


def test_a_text_of_two_labels_is_not_chosen():
    assert sampling.choose([("ant", "x"), ("ant", "y"), ("bear", "y"), ("crow", "z")], ("x", "y"), 9) == [("bear", "y")]


def test_wordnet_glosses_lose_their_examples_and_the_licence_is_no_gloss():
    lines = [
        "  1 This software and database is being provided to you | a licence of many words  \n",
        "02084071 05 n 02 dog 0 domestic_dog 0 001 @ 02083346 n 0000 | a member of the genus Canis; kept by man; "
        '"the dog barked all night"  \n',
        "00001740 03 n 01 entity 0 000 | that which is perceived to exist  \n",
        "07555863 13 n 01 food 0 000 | solid food  \n",
    ]
    assert list(make_wordnet.glosses(lines)) == [("a member of the genus Canis; kept by man", "noun.animal")]


def test_verses_lose_their_place_and_other_books_are_left_out():
    lines = [
        "Ge1:1 In the beginning God created the heaven and the earth.\n",
        "Exo1:5 And all the souls were seventy souls.\n",
        "1Sm17:4 And there went out a champion, 6:1 cubits and a span high.\n",
        "Ge1:99 And God said.\n",
        "1Chr1:1 Adam, Sheth, Enosh, and many more.\n",
    ]
    assert list(make_kjv_books.verses(lines)) == [
        ("In the beginning God created the heaven and the earth.", "Genesis"),
        ("And there went out a champion, 6:1 cubits and a span high.", "1 Samuel"),
    ]


def test_german_descriptions_stand_for_the_original_that_was_translated():
    index = """Package: chess
Description: game of chess
Description-md5: 1
Section: games

Package: chess-data
Source: chess (1.0)
Description: game of chess (data)
Description-md5: 2
Section: games

Package: checkers
Description: game of checkers
Description-md5: newer
Section: games

Package: maps
Description: maps of the world
Description-md5: 3
Section: science
"""
    german = {"1": "Schachspiel", "2": "Schachspiel (Daten)", "older": "Damespiel", "3": "Weltkarten"}
    found = make_debian_two_languages.descriptions(packages(io.StringIO(index)), german)
    assert list(found) == [("Schachspiel", "games"), ("maps of the world", "science")]


INDEX = """Package: chess
Description: game of chess
Tag: interface::graphical, interface::x11, role::program,
 use::gameplaying, implemented-in::c
Section: games

Package: chess-data
Source: chess (1.0)
Description: pieces for a board game
Tag: role::app-data, implemented-in::c
Section: games

Package: libmaps-dev
Description: maps of the world
Tag: role::devel-lib, implemented-in::fortran
Section: contrib/libdevel

Package: pager
Description-en: show a file
Tag: interface::text-mode, interface::commandline, role::program, role::plugin, implemented-in::c++,
 use::viewing, use::TODO
Section: misc

Package: untagged
Description: tool that nobody tagged
Section: utils

Package: half-tagged
Description: editor whose interface is unknown
Tag: role::program, implemented-in::c, use::editing
Section: editors

Package: two-languages
Description: speaks in tongues
Tag: role::shared-lib, implemented-in::c, implemented-in::perl
Section: libs
"""


def test_facets_are_read_from_sections_and_tags_of_one_package_a_source():
    found = {row["text"]: [*row.values()][1:] for row in make_debian_facets.rows(io.StringIO(INDEX), most=9)}
    assert found == {
        "chess - game of chess": ["games", "other", "c", "program", "graphical", "gameplaying"],
        "libmaps-dev - maps of the world": ["libdevel", "library", "other", "devel-lib", "", ""],
        "pager - show a file": ["other", "other", "c++", "plugin", "commandline;text-mode", "viewing"],
    }


def test_libraries_of_one_language_are_limited_and_programs_are_not():
    kinds = [("lib", "shared-lib", ""), ("tool", "program", ", interface::web, use::viewing")]
    index = "\n\n".join(
        f"Package: {kind}{word}\nDescription: {word}\nTag: role::{role}, implemented-in::perl{rest}\nSection: perl"
        for kind, role, rest in kinds
        for word in ("ant", "bear", "crow")
    )
    found = [row["text"] for row in make_debian_facets.rows(io.StringIO(index), most=2)]
    assert Counter(text[:3] for text in found) == {"lib": 2, "too": 3}


def test_the_facets_that_are_kept_here_are_those_that_are_documented():
    with (corpora.DATA / "debian_facets.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["text"] for row in rows}) == len(rows)
    for name, facet in make_debian_facets.FACETS.items():
        cells = [row[name].split(";") if row[name] else [] for row in rows]
        assert {value for cell in cells for value in cell} <= set(facet.values)
        assert facet.multi or {len(cell) for cell in cells} == {1}


def test_clinc150_has_two_gold_columns_and_nothing_out_of_scope(tmp_path):
    (tmp_path / "clinc150.csv").write_text(
        "text,label,domain,split\nhow many onions,,,oos-val\npay it,pay_bill,banking,train\n"
    )
    assert clinc150.read(tmp_path) == [{"text": "pay it", "domain": "banking", "intent": "pay_bill"}]
    with pytest.raises(UnavailableError, match="--data"):
        clinc150.read(tmp_path / "elsewhere")


def test_the_split_depends_on_no_order_and_shares_out_every_text_once():
    texts = [f"text {i}" for i in range(60)]
    labels = ["x" if i < 40 else "y" for i in range(60)]
    split = corpora.split(texts, labels)
    assert split == corpora.split(texts[::-1], labels[::-1])
    assert sorted(row for part in split for row in part) == sorted(zip(texts, labels, strict=True))
    assert [Counter(label for _, label in part) for part in split] == [
        {"x": 14, "y": 7},
        {"x": 16, "y": 8},
        {"x": 10, "y": 5},
    ]


@pytest.mark.parametrize("name", sorted(p.stem for p in corpora.DATA.glob("*.csv") if p.stem in corpora.TEACHERS))
def test_two_teachers_share_out_the_labels_of_a_corpus(name):
    texts, labels = corpora.load(name)
    first, second = corpora.TEACHERS[name].values()
    assert len(first) == len(second) >= 4
    assert set(first) | set(second) == set(labels)
    assert len(set(texts)) == len(texts)
    assert min(Counter(labels).values()) > 200
