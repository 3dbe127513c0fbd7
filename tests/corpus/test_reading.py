import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amalgam_edge.corpus import read_corpus, read_label_names
from amalgam_edge.errors import AmalgamError
from amalgam_edge.labels import LabelSpace
from amalgam_edge.storage import files

TEXTS = ["plain words", 'a "quoted", comma', "emoji 🐧🇩🇪 and ümlauts", "NA", "null", "007", "  spaces kept  "]


def as_txt(texts):
    return "".join(f"{text}\n" for text in texts).encode()


def as_csv(texts, delimiter=",", column="text"):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerows([[column], *([text] for text in texts)])
    return out.getvalue().encode()


def as_jsonl(rows):
    rows = [{"text": row} if isinstance(row, str) else row for row in rows]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_parquet(texts):
    out = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), out)
    return out.getvalue()


WRITERS = {
    ".txt": as_txt,
    ".csv": as_csv,
    ".tsv": lambda texts: as_csv(texts, "\t"),
    ".jsonl": as_jsonl,
    ".json": lambda texts: json.dumps([{"text": text} for text in texts]).encode(),
    ".parquet": as_parquet,
}
PACKERS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


@pytest.fixture
def write(tmp_path):
    def put(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)

    return put


@pytest.mark.parametrize("suffix", sorted(WRITERS))
def test_every_format_gives_the_same_texts(write, suffix):
    corpus = read_corpus(write(f"corpus{suffix}", WRITERS[suffix](TEXTS)))
    assert list(corpus.texts) == TEXTS
    assert len(corpus) == len(TEXTS)
    assert (corpus.n_read, corpus.n_blank, corpus.n_duplicate) == (len(TEXTS), 0, 0)


@pytest.mark.parametrize("packing", [".gz", ".xz", ".bz2"])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_compressed_files_are_read(write, suffix, packing):
    corpus = read_corpus(write(f"corpus{suffix}{packing}", PACKERS[packing](WRITERS[suffix](TEXTS))))
    assert list(corpus.texts) == TEXTS


def test_suffixes_are_read_in_any_case(write):
    assert list(read_corpus(write("CORPUS.TXT", as_txt(TEXTS))).texts) == TEXTS


def test_the_fingerprint_is_of_texts_and_order_and_not_of_the_format(write):
    prints = {read_corpus(write(f"c{suffix}", make(TEXTS))).fingerprint for suffix, make in WRITERS.items()}
    assert len(prints) == 1
    reordered = read_corpus(write("r.txt", as_txt(TEXTS[::-1]))).fingerprint
    changed = read_corpus(write("n.txt", as_txt(["Plain words", *TEXTS[1:]]))).fingerprint
    longer = read_corpus(write("l.txt", as_txt([*TEXTS, "more"]))).fingerprint
    assert len({*prints, reordered, changed, longer}) == 4


def test_the_fingerprint_by_hand(write):
    corpus = read_corpus(write("c.txt", as_txt(["one", "two"])))
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in ("one", "two"))
    assert corpus.fingerprint == hashlib.sha256(digests).hexdigest()


def test_a_folder_of_mixed_formats_is_read_whole(write, tmp_path):
    parts = {suffix: [f"{suffix} {k}" for k in range(3)] for suffix in WRITERS}
    for suffix, texts in parts.items():
        write(f"folder/deep/part{suffix}", WRITERS[suffix](texts))
    write("folder/more.txt.gz", gzip.compress(as_txt(["packed"]), mtime=0))
    write("folder/README.md", b"not a corpus")
    corpus = read_corpus(str(tmp_path / "folder"))
    assert sorted(corpus.texts) == sorted([*(t for texts in parts.values() for t in texts), "packed"])
    assert corpus.n_blank == 0
    again = read_corpus(str(tmp_path / "folder"))
    assert again.fingerprint == corpus.fingerprint


def test_files_are_read_by_format_and_within_a_format_by_name(write, tmp_path):
    for name in ("d.txt", "b.jsonl", "c/a.txt", "a.txt", "e.jsonl", "c.txt"):
        write(f"folder/{name}", WRITERS[f".{name.rpartition('.')[2]}"]([name]))
    in_order = ["a.txt", "c/a.txt", "c.txt", "d.txt", "b.jsonl", "e.jsonl"]
    assert list(read_corpus(str(tmp_path / "folder")).texts) == in_order


def test_a_folder_without_texts_is_refused(write, tmp_path):
    write("folder/notes.md", b"words")
    with pytest.raises(AmalgamError, match=r"\.txt"):
        read_corpus(str(tmp_path / "folder"))


def test_blanks_and_duplicates_are_left_out_and_counted(write):
    rows = ["a", "", "b", "a", "   ", "b", "c", "A"]
    corpus = read_corpus(write("c.jsonl", as_jsonl([*rows, {"text": None}])))
    assert list(corpus.texts) == ["a", "b", "c", "A"]
    assert (corpus.n_read, corpus.n_blank, corpus.n_duplicate) == (9, 3, 2)


def test_duplicates_stay_where_asked_for(write):
    corpus = read_corpus(write("c.txt", as_txt(["a", "b", "a", ""])), drop_duplicates=False)
    assert list(corpus.texts) == ["a", "b", "a"]
    assert (corpus.n_blank, corpus.n_duplicate) == (1, 0)


def test_labels_follow_their_texts_when_rows_are_left_out(write):
    rows = [("a", "x"), ("", "y"), ("a", "z"), ("b", "w")]
    corpus = read_corpus(write("c.jsonl", as_jsonl([{"text": t, "gold": g} for t, g in rows])), label_columns=["gold"])
    assert list(zip(corpus.texts, corpus.labels("gold"), strict=True)) == [("a", "x"), ("b", "w")]


def test_the_only_column_of_strings_is_the_text(write):
    rows = [{"id": k, "sentence": f"text {k}", "score": k / 2} for k in range(3)]
    assert list(read_corpus(write("c.jsonl", as_jsonl(rows))).texts) == ["text 0", "text 1", "text 2"]


def test_the_only_column_of_large_strings_is_the_text(write):
    out = io.BytesIO()
    pq.write_table(pa.table({"id": [1, 2], "sentence": pa.array(["one", "two"], pa.large_string())}), out)
    assert list(read_corpus(write("c.parquet", out.getvalue())).texts) == ["one", "two"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_the_only_column_of_a_table_is_the_text(write, suffix):
    content = as_csv(["one", "two"], {".csv": ",", ".tsv": "\t"}[suffix], column="sentence")
    assert list(read_corpus(write(f"c{suffix}", content)).texts) == ["one", "two"]


def test_a_column_called_text_wins(write):
    path = write("c.jsonl", as_jsonl([{"title": "t", "text": "x"}]))
    assert list(read_corpus(path).texts) == ["x"]
    assert list(read_corpus(path, text_column="title").texts) == ["t"]


def test_two_columns_of_strings_are_a_question(write):
    path = write("c.jsonl", as_jsonl([{"title": "t", "body": "x"}]))
    with pytest.raises(AmalgamError, match="'title', 'body' with --text-column"):
        read_corpus(path)


@pytest.mark.parametrize("options", [{"text_column": "nix"}, {"label_columns": ["nix"]}])
def test_a_missing_column_is_refused_with_those_that_are_there(write, options):
    path = write("c.jsonl", as_jsonl([{"text": "t", "gold": "x"}]))
    with pytest.raises(AmalgamError, match="no column 'nix'; it has 'text', 'gold'"):
        read_corpus(path, **options)


def test_a_text_column_of_numbers_is_refused(write):
    path = write("c.jsonl", as_jsonl([{"text": "t", "n": 1}]))
    with pytest.raises(AmalgamError, match="'n' holds int64"):
        read_corpus(path, text_column="n")


def test_one_column_cannot_be_both_text_and_label(write):
    path = write("c.jsonl", as_jsonl([{"text": "t", "gold": "x"}]))
    with pytest.raises(AmalgamError, match="text"):
        read_corpus(path, text_column="text", label_columns=["text"])


def test_columns_called_the_wrong_way_round_are_told_apart(write):
    path = write("c.jsonl", as_jsonl([{"text": "gold", "label": "words to read"}]))
    corpus = read_corpus(path, text_column="label", label_columns=["text"])
    assert list(corpus.texts) == ["words to read"]
    assert corpus.labels("text") == ["gold"]


def test_integer_labels_become_their_digits(write):
    path = write("c.csv", b"text,label\none,3\ntwo,10\n")
    assert read_corpus(path, label_columns=["label"]).labels("label") == ["3", "10"]


def test_missing_labels_are_refused_in_one_line(write):
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": None}, {"text": "c", "label": "unheard"}]
    with pytest.raises(AmalgamError, match="'None', 'unheard'"):
        LabelSpace.union({"t": ["x", "y"]}).encode(
            read_corpus(write("c.jsonl", as_jsonl(rows)), label_columns=["label"]).labels("label")
        )


def test_an_empty_file_is_refused(write):
    with pytest.raises(AmalgamError, match="empty"):
        read_corpus(write("c.txt", b""))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.txt", b"\n \n\t\n"),
        ("c.csv", b"text\n\n"),
        ("c.csv", b"text\n"),
        ("c.jsonl", b'{"text": ""}\n'),
        ("c.jsonl", b"\n"),
        ("c.txt.gz", gzip.compress(b"", mtime=0)),
        ("c.parquet", as_parquet(pa.array([], pa.string()))),
    ],
)
def test_a_file_without_a_text_is_refused(write, name, content):
    with pytest.raises(AmalgamError, match=name):
        read_corpus(write(name, content))


@pytest.mark.parametrize("name", ["c.txt", "c.csv", "c.jsonl"])
def test_binary_files_are_refused(write, name):
    with pytest.raises(AmalgamError, match="binary"):
        read_corpus(write(name, b"\x7fELF\0\0\1\2"))


def test_null_bytes_are_looked_for_in_the_first_64_kibibytes(write):
    """Enough to tell a binary file, and no more: a large file elsewhere is not fetched for that."""
    with pytest.raises(AmalgamError, match="binary"):
        read_corpus(write("c.txt", b"x" * 65_535 + b"\0"))
    assert len(read_corpus(write("d.txt", b"x" * 65_536 + b"\0"))) == 1


@pytest.mark.parametrize("name", ["c.pdf", "c", "c.json.zip", "c.gz"])
def test_unknown_formats_are_refused(write, name):
    with pytest.raises(AmalgamError, match="format not known"):
        read_corpus(write(name, b"words"))


def test_nothing_there_is_refused(tmp_path):
    with pytest.raises(AmalgamError, match="no such file or folder"):
        read_corpus(str(tmp_path / "nowhere.txt"))


@pytest.mark.parametrize("name", ["c.txt", "c.csv", "c.tsv", "c.jsonl"])
def test_text_that_is_not_utf8_is_refused(write, name):
    content = {"c.jsonl": '{"text": "grün"}\n'}.get(name, "text\ngrün\n").encode("latin-1")
    with pytest.raises(AmalgamError, match=name) as caught:
        read_corpus(write(name, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.jsonl", b'{"text": "a"}\n{"text": \n'),
        ("c.jsonl", b"no json\n"),
        ("c.csv", b'text,b\n"never closed,1\n2,3\n'),
        ("c.csv", b"text,b\n1,2\n1,2,3,4\n"),
        ("c.parquet", b"PAR1 but no table"),
        ("c.txt.gz", b"no gzip at all"),
        ("c.txt.gz", gzip.compress(b"words words words\n" * 99, mtime=0)[:40]),
    ],
)
def test_damaged_files_are_refused_in_one_line(write, name, content):
    with pytest.raises(AmalgamError, match=name) as caught:
        read_corpus(write(name, content))
    assert "\n" not in str(caught.value)


def test_an_error_without_a_message_is_still_told(write, monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(AmalgamError, match="cannot be read"):
        read_corpus(write("c.txt", b"words\n"))


@pytest.mark.parametrize("text", ["one\u2028line", "one\x0bline", "one\x85line", "one\x0cline"])
def test_only_newlines_end_a_line(write, text):
    assert list(read_corpus(write("c.txt", as_txt([text, "next"]))).texts) == [text, "next"]


def test_windows_line_ends_are_no_part_of_the_text(write):
    assert list(read_corpus(write("c.txt", b"one\r\ntwo\r\n")).texts) == ["one", "two"]


def test_a_last_line_without_a_newline_counts(write):
    assert list(read_corpus(write("c.txt", b"one\ntwo")).texts) == ["one", "two"]


def test_a_changed_file_is_read_anew(write):
    assert list(read_corpus(write("c.txt", b"before\n")).texts) == ["before"]
    assert list(read_corpus(write("c.txt", b"after, and longer\n")).texts) == ["after, and longer"]


def test_texts_longer_than_a_batch_of_rows_are_all_hashed(write):
    texts = [f"text {k}" for k in range(10_003)]
    corpus = read_corpus(write("c.txt", as_txt([*texts, texts[0], texts[10_001]])))
    assert len(corpus) == 10_003
    assert corpus.n_duplicate == 2
    last = hashlib.blake2b(b"text 10002", digest_size=16).digest()
    assert corpus.digests[-1].tobytes() == last


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the Hub; the calls that it saw."""
    calls = []
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    table = datasets.Dataset.from_dict({"text": ["bad", "good", "fine"], "label": [0, 1, 1]}, features=features)

    def load_dataset(name, **options):
        calls.append((name, options))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_hub_data_sets_are_loaded_by_name_and_split(hub):
    corpus = read_corpus("hf://datasets/owner/films", split="test[:3]")
    assert hub == [("owner/films", {"split": "test[:3]"})]
    assert list(corpus.texts) == ["bad", "good", "fine"]
    assert read_label_names("hf://datasets/owner/films", "label", split="test") == ["neg", "pos"]
    assert hub[1:] == [("owner/films", {"split": "test"})]


def test_hub_data_sets_are_read_by_their_training_split_unless_told_otherwise(hub):
    read_corpus("hf://datasets/owner/films")
    read_label_names("hf://datasets/owner/films", "label")
    assert hub == [("owner/films", {"split": "train"})] * 2


@pytest.mark.usefixtures("hub")
def test_class_ids_of_the_hub_become_their_names():
    assert read_corpus("hf://datasets/owner/films", label_columns=["label"]).labels("label") == ["neg", "pos", "pos"]


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("the Hub is away")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(AmalgamError, match=r"owner/films.*the Hub is away"):
        read_corpus("hf://datasets/owner/films")


def test_the_split_covers_the_corpus_once(write):
    corpus = read_corpus(write("c.txt", as_txt([f"text {k}" for k in range(200)])))
    train, held_out = corpus.split(20)
    assert (len(train), len(held_out)) == (180, 20)
    assert sorted([*train, *held_out]) == list(range(200))
    assert (np.diff(train) > 0).all()
    assert (np.diff(held_out) > 0).all()


def test_the_split_depends_on_the_texts_and_not_on_their_order(write):
    texts = [f"text {k}" for k in range(200)]
    shuffled = [texts[k] for k in np.random.default_rng(0).permutation(200)]
    chosen = []
    for name, content in (("a", texts), ("b", shuffled), ("c", texts)):
        corpus = read_corpus(write(f"{name}.txt", as_txt(content)))
        chosen.append({corpus.texts[int(row)] for row in corpus.split(20)[1]})
    assert chosen[0] == chosen[1] == chosen[2]
    assert chosen[0] != set(texts[:40])


@pytest.mark.parametrize(
    ("texts", "asked", "parts"),
    [(4, 3, [3, 1]), (11, 1, [10, 1]), (11, 500, [9, 2]), (19, 500, [16, 3]), (20, 500, [16, 4]), (1, 1, [0, 1])],
)
def test_the_split_holds_out_at_least_one_and_at_most_a_fifth(write, texts, asked, parts):
    corpus = read_corpus(write("c.txt", as_txt([f"text {k}" for k in range(texts)])))
    assert [len(part) for part in corpus.split(asked)] == parts


def test_the_texts_with_the_smallest_digests_are_held_out(write):
    """The second half of a digest counts first; that choice is arbitrary, but builds of the past rest on it."""
    texts = [f"text {k}" for k in range(50)]

    def digest(row):
        halves = np.frombuffer(hashlib.blake2b(texts[row].encode(), digest_size=16).digest(), "<u8").tolist()
        return halves[::-1]

    _, held_out = read_corpus(write("c.txt", as_txt(texts))).split(7)
    assert held_out.tolist() == sorted(sorted(range(50), key=digest)[:7])


NAMES = ["net", None, "fonts", "net"]
LABEL_COLUMNS = {
    "strings, one of them missing": (
        "labels.jsonl",
        as_jsonl([{"text": text, "label": label} for text, label in zip("abcd", NAMES, strict=True)]),
        ["net", "fonts"],
    ),
    "numbers": ("labels.csv", b"text,label\na,1\nb,0\nc,1\n", ["1", "0"]),
    "lists": ("labels.jsonl", as_jsonl([{"text": "a", "label": ["net", "fonts"]}, {"text": "b", "label": []}]), []),
    "no such column": ("labels.jsonl", as_jsonl(["a", "b"]), []),
}


@pytest.mark.parametrize("case", LABEL_COLUMNS)
def test_names_in_a_column_of_labels_are_told_once_in_order(write, case):
    name, content, names = LABEL_COLUMNS[case]
    assert read_label_names(write(name, content), "label") == names


def test_label_names_of_a_file_that_is_not_there_are_refused():
    with pytest.raises(AmalgamError, match="no such file"):
        read_label_names("gone.csv", "label")


@pytest.fixture(params=["memory", "bucket", "local"])
def folder_anywhere(request, tmp_path):
    """A folder of texts on each kind of file system, by its URL."""
    folder = f"file://{tmp_path}" if request.param == "local" else request.getfixturevalue(request.param)
    folder = f"{folder}/corpora"
    for name, content in (
        ("b.txt", as_txt(["third"])),
        ("a.txt", as_txt(["first", "second"])),
        ("c.jsonl.gz", gzip.compress(as_jsonl(["fourth"]), mtime=0)),
        ("deep/d.parquet", as_parquet(["fifth"])),
        ("README.md", b"not a corpus"),
        ("empty/e.md.txt", b""),
        ("binary/f.txt", b"\x7fELF\0\0\1\2"),
        ("notes/notes.md", b"words"),
    ):
        files.write(files.locate(f"{folder}/{name}"), content)
    return folder


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("b.txt", ["third"]),
        ("?.txt", ["first", "second", "third"]),
        ("**/*.parquet", ["fifth"]),
        ("deep", ["fifth"]),
    ],
)
def test_texts_are_read_from_any_file_system(folder_anywhere, source, texts):
    assert list(read_corpus(f"{folder_anywhere}/{source}").texts) == texts


def test_a_folder_is_read_whole_on_any_file_system(folder_anywhere):
    for name in ("empty/e.md.txt", "binary/f.txt"):
        files.delete(files.locate(f"{folder_anywhere}/{name}"))
    assert sorted(read_corpus(folder_anywhere).texts) == ["fifth", "first", "fourth", "second", "third"]


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("README.md", "README.md: format not known"),
        ("*.md", "README.md: format not known"),
        ("*.csv", r"\*\.csv: no file matches; in a shell, put the pattern in quotes"),
        ("nowhere.txt", "nowhere.txt: no such file or folder"),
        ("empty", r"e\.md\.txt: the file is empty"),
        ("binary", r"f\.txt: a binary file"),
        ("notes", r"notes: no \.txt.* file in this folder"),
    ],
)
def test_what_cannot_be_read_is_refused_on_any_file_system(folder_anywhere, source, named):
    with pytest.raises(AmalgamError, match=named):
        read_corpus(f"{folder_anywhere}/{source}")


@pytest.mark.parametrize("kind", ["memory", "bucket"])
def test_a_changed_file_elsewhere_is_read_anew(request, kind):
    url = f"{request.getfixturevalue(kind)}/changing/c.txt"
    for text in ("before", "since!"):
        files.write(url, as_txt([text]))
        assert list(read_corpus(url).texts) == [text]


def test_patterns_name_local_files_too(write, tmp_path, monkeypatch):
    for name in ("b", "a"):
        write(f"texts/{name}.parquet", as_parquet([f"text {name}"]))
    write("texts/c.txt", as_txt(["not this"]))
    assert list(read_corpus(f"{tmp_path}/texts/*.parquet").texts) == ["text a", "text b"]
    monkeypatch.chdir(tmp_path)
    assert list(read_corpus("texts/[ab].parquet").texts) == ["text a", "text b"]
    with pytest.raises(AmalgamError, match="no file matches"):
        read_corpus("texts/*.csv")


def test_a_file_system_that_cannot_be_reached_is_told(flaky):
    flaky.failures = 99
    with pytest.raises(AmalgamError, match=r"c\.txt: cannot be read \(the connection was reset; tried 4 times\)"):
        read_corpus("flaky://there/c.txt")
