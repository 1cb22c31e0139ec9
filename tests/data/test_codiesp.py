import hashlib
import http.server
import io
import json
import socket
import threading
import zipfile
from collections import Counter, defaultdict

import pytest

from icdtune.codes.tables import load_table
from icdtune.data.codiesp import download, prepare
from icdtune.data.evidence import Span
from icdtune.data.schema import Corpus
from icdtune.errors import IcdtuneError


@pytest.fixture(scope="module")
def corpora(codiesp_source, tmp_path_factory):
    """Prepare a corpus of the published files, once a language and task."""
    folder, made = tmp_path_factory.mktemp("codiesp"), {}

    def corpus(language, task):
        path = folder / f"{language}-{task}"
        if path not in made:
            prepare(path, codiesp_source, language, task)
            made[path] = Corpus(path)
        return made[path]

    return corpus


def ids(corpus, split):
    return corpus.columns(split, "note_id")["note_id"].to_pylist()


def groups(corpus):
    """Evidence spans of each group: the pieces of one mention in one note."""
    found = defaultdict(list)
    for span in corpus.evidence():
        found[span.note_id, span.group].append(span)
    return found


# The published corpus


@pytest.mark.parametrize(
    ("language", "task"), [("en", "D"), ("es", "D"), ("en", "P"), ("es", "DP")]
)
def test_splits_are_cut_as_documented(corpora, language, task):
    counts = {split: info.notes for split, info in corpora(language, task).info.splits.items()}
    assert counts == {"train": 425, "val": 75, "dev": 250, "test": 250}


@pytest.mark.parametrize("task", ["D", "P"])
def test_only_the_test_split_is_unlabelled(corpora, task):
    corpus = corpora("en", task)
    for split, info in corpus.info.splits.items():
        assert info.labelled == (0 if split == "test" else info.notes)
    assert all(note.codes is None for note in corpus.notes("test"))


def test_a_case_without_procedures_is_coded_as_nothing(corpora):
    codes = [n.codes for n in corpora("en", "P").notes("dev")]
    assert codes.count(()) == 250 - 222


def test_validation_is_the_same_in_every_language_and_task_and_disjoint_from_the_rest(corpora):
    chosen = [set(ids(corpora(*key), "val")) for key in (("en", "D"), ("es", "D"), ("es", "DP"))]
    assert chosen[0] == chosen[1] == chosen[2]
    corpus = corpora("en", "D")
    everything = [note for split in corpus.splits for note in ids(corpus, split)]
    assert len(set(everything)) == len(everything) == 1000


def test_preparing_twice_gives_the_same_corpus(corpora, codiesp_source, tmp_path):
    prepare(tmp_path / "again", codiesp_source, "en", "D")
    again = Corpus(tmp_path / "again")
    assert again.info == corpora("en", "D").info
    assert again.row_hash() == again.info.hash


def test_unknown_codes_are_few_and_prefixes_are_kept(corpora):
    corpus, table = corpora("en", "D"), load_table("icd10cm")
    standing = Counter()
    unknown = set()
    for split in ("train", "val", "dev"):
        for note in corpus.notes(split):
            for code in note.codes:
                how, _ = table.standing(code)
                standing[how] += 1
                unknown |= {code} if how == "unknown" else set()
    assert dict(standing) == corpus.info.standing["diagnosis"]
    assert len(unknown) == 2
    assert 0.07 < standing["prefix"] / standing.total() < 0.09
    assert standing.keys() == {"exact", "prefix", "unknown"}


def test_half_of_the_procedures_are_prefixes(corpora):
    standing = corpora("en", "P").info.standing["procedure"]
    assert 0.50 < standing["prefix"] / sum(standing.values()) < 0.56


def test_each_case_has_about_eleven_diagnoses_in_the_order_of_the_file(corpora, codiesp_source):
    corpus = corpora("en", "D")
    dev = corpus.info.splits["dev"]
    assert 10 < dev.mentions / dev.notes < 12
    published = defaultdict(dict)
    for line in (codiesp_source / "dev" / "devD.tsv").read_text().splitlines():
        note_id, code = line.split("\t")
        published[note_id.strip()][code.strip().upper().replace(".", "")] = None
    for note in corpus.notes("dev"):
        assert [code.replace(".", "") for code in note.codes] == list(published[note.note_id])


def test_both_tasks_together_are_the_diagnoses_and_the_procedures(corpora):
    for split in ("train", "val", "dev"):
        diagnoses, procedures, both = (
            {n.note_id: n.codes for n in corpora(*key).notes(split)}
            for key in (("en", "D"), ("en", "P"), ("es", "DP"))
        )
        assert both == {note: diagnoses[note] + procedures[note] for note in both}
    assert corpora("es", "DP").info.code_systems == {
        "diagnosis": "icd10cm",
        "procedure": "icd10pcs",
    }
    joint = corpora("es", "DP").info.standing
    assert joint["diagnosis"] == corpora("en", "D").info.standing["diagnosis"]
    assert joint["procedure"] == corpora("en", "P").info.standing["procedure"]


def test_languages_differ_in_text_only(corpora):
    english, spanish = corpora("en", "D"), corpora("es", "D")
    for split in english.splits:
        for one, two in zip(english.notes(split), spanish.notes(split), strict=True):
            assert (one.note_id, one.subject_id, one.codes) == (
                two.note_id,
                two.subject_id,
                two.codes,
            )
            assert one.text != two.text


def test_the_english_translation_has_no_evidence(corpora):
    assert list(corpora("en", "D").evidence()) == []
    assert not (corpora("en", "D").path / "evidence.parquet").exists()


@pytest.mark.parametrize("task", ["D", "DP"])
def test_spanish_evidence_lies_in_its_note_and_speaks_of_its_codes(corpora, task):
    corpus = corpora("es", task)
    notes = {n.note_id: n for split in corpus.splits for n in corpus.notes(split)}
    for span in corpus.evidence():
        note = notes[span.note_id]
        assert span.code in note.codes
        assert 0 <= span.start < span.end <= len(note.text)


def test_evidence_covers_nearly_every_coded_diagnosis(corpora):
    corpus = corpora("es", "D")
    shown = {(span.note_id, span.code) for span in corpus.evidence()}
    coded = {
        (note.note_id, code)
        for split in ("train", "val", "dev")
        for note in corpus.notes(split)
        for code in note.codes
    }
    assert shown <= coded
    assert len(shown) > 0.99 * len(coded)


def test_evidence_is_the_text_that_the_annotators_marked(corpora, codiesp_source):
    corpus = corpora("es", "DP")
    texts = {n.note_id: n.text for split in corpus.splits for n in corpus.notes(split)}
    marked = Counter()
    for split in ("train", "dev"):
        for line in (codiesp_source / split / f"{split}X.tsv").read_text().splitlines():
            note_id, _, _, words, _ = line.split("\t")
            marked[note_id, " ".join(words.split())] += 1
    found = Counter()
    for pieces in groups(corpus).values():
        words = " ".join(texts[p.note_id][p.start : p.end] for p in pieces)
        found[pieces[0].note_id, " ".join(words.split())] += 1
    assert (found & marked).total() > 0.97 * marked.total()


def test_a_fifth_of_the_evidence_is_discontinuous(corpora):
    found = groups(corpora("es", "DP")).values()
    assert 0.18 < sum(len(pieces) > 1 for pieces in found) / len(found) < 0.21
    assert all(len({p.code for p in pieces}) == 1 for pieces in found)


# A small source, to go wrong in


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    for split in ("train", "dev", "test"):
        for texts in ("text_files", "text_files_en"):
            (folder / split / texts).mkdir(parents=True)
            for i in range(10):
                path = folder / split / texts / f"{split}{i}.txt"
                path.write_text(f"Caso {i}: diabetes mellitus tipo 2.\n", encoding="utf-8")
    for split in ("train", "dev"):
        gold = "".join(f"{split}{i}\te11.9\n" for i in range(10))
        (folder / split / f"{split}D.tsv").write_text(gold)
        (folder / split / f"{split}P.tsv").write_text(f"{split}0\tbt41zzz\n")
        evidence = f"{split}0\tDIAGNOSTICO\te11.9\tdiabetes tipo 2\t8 16;26 32\n"
        (folder / split / f"{split}X.tsv").write_text(evidence)
    return folder


def refusal(tmp_path, source, language="es", task="D", **options):
    """The message with which a source is refused; nothing may be left where the corpus would be."""
    target = tmp_path / "target"
    with pytest.raises(IcdtuneError) as caught:
        prepare(target / "corpus", source, language, task, **options)
    assert not target.exists() or list(target.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def append(path, content):
    with path.open("ab") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def test_a_small_source_is_prepared(tmp_path, source):
    prepare(tmp_path / "corpus", source, "es", "DP")
    corpus = Corpus(tmp_path / "corpus")
    counts = {split: info.notes for split, info in corpus.info.splits.items()}
    assert counts == {"train": 8, "val": 2, "test": 10, "dev": 10}
    spans = [span for span in corpus.evidence() if span.note_id == "dev0"]
    assert [(s.code, s.start, s.end) for s in spans] == [("E11.9", 8, 16), ("E11.9", 26, 32)]
    assert len({s.group for s in spans}) == 1
    (first, *_) = corpus.notes("dev")
    assert first.codes == ("E11.9", "BT41ZZZ")


def test_the_source_may_lie_one_folder_deeper(tmp_path, source):
    prepare(tmp_path / "corpus", source.parent, "en", "D")
    assert Corpus(tmp_path / "corpus").info.splits["dev"].notes == 10


def test_gold_of_the_test_split_is_used_where_it_is_there(tmp_path, source):
    (source / "test" / "testD.tsv").write_text("test0\ti10\n")
    prepare(tmp_path / "corpus", source, "en", "D")
    codes = [n.codes for n in Corpus(tmp_path / "corpus").notes("test")]
    assert codes == [("I10",), *[()] * 9]


def test_a_folder_that_is_absent_or_holds_something_else_is_named(tmp_path, source):
    assert "nowhere does not exist" in refusal(tmp_path, tmp_path / "nowhere")
    assert "--download" in refusal(tmp_path, tmp_path / "nowhere")
    message = refusal(tmp_path, source / "train" / "text_files")
    assert "text_files is not CodiEsp" in message
    assert "trainD.tsv" in message


@pytest.mark.parametrize("missing", ["dev/devD.tsv", "train/text_files", "test/text_files"])
def test_a_missing_part_is_named(tmp_path, source, missing):
    (source / missing).rename(source / "elsewhere")
    assert missing in refusal(tmp_path, source)


@pytest.mark.parametrize(
    ("file", "content", "parts"),
    [
        ("train/trainD.tsv", "train0\n", ["line 11", "1 fields, not 2"]),
        ("train/trainD.tsv", "train0 e11.9\n", ["line 11", "1 fields, not 2"]),
        ("dev/devD.tsv", "\ndev0\te11.9\tmore\n", ["line 12", "3 fields, not 2"]),
        ("train/trainX.tsv", "train0\tDIAGNOSTICO\te11.9\n", ["line 2", "3 fields, not 5"]),
        ("train/trainX.tsv", "train0\tDIAGNOSTICO\te11.9\tx\t8-9\n", ["line 2", '"offsets"']),
        ("train/trainX.tsv", "train0\tDIAGNOSTICO\te11.9\tx\t8\n", ["line 2", '"offsets"']),
        ("train/trainX.tsv", "train0\tDIAGNOSTICO\te11.9\tx\t8 9;\n", ["line 2", '"offsets"']),
        ("train/trainX.tsv", "train0\tDIAGNOSTICO\te11.9\tx\t1 2 3\n", ["line 2", '"offsets"']),
        ("train/trainX.tsv", "train0\tDIAGNOSTIC\te11.9\tx\t1 2\n", ["line 2", "DIAGNOSTIC"]),
        ("train/trainD.tsv", "train0\t11.e9\n", ["line 11", '"11.e9"', "ICD-10-CM"]),
        ("train/trainD.tsv", "elsewhere\te11.9\n", ["line 11", "no text file"]),
        ("train/trainD.tsv", b"train0\te11.9\xff\n", []),
    ],
)
def test_a_malformed_line_names_file_and_line(tmp_path, source, file, content, parts):
    append(source / file, content)
    message = refusal(tmp_path, source)
    for part in (file.rpartition("/")[2], *parts):
        assert part in message


def test_evidence_beyond_the_end_of_a_text_is_named(tmp_path, source):
    append(source / "train" / "trainX.tsv", "train0\tDIAGNOSTICO\te11.9\tx\t8 999\n")
    message = refusal(tmp_path, source)
    for part in ("train0", "evidence for E11.9", "8-999", "34 characters"):
        assert part in message


def test_a_text_that_is_empty_or_not_utf8_is_named(tmp_path, source):
    path = source / "dev" / "text_files" / "dev3.txt"
    path.write_text(" \n")
    assert 'dev3.txt: field "text"' in refusal(tmp_path, source)
    path.write_bytes(b"Coraz\xf3n\n")
    assert "dev3.txt" in refusal(tmp_path, source)


def test_unknown_codes_are_kept_refused_or_set_aside(tmp_path, source):
    append(source / "train" / "trainD.tsv", "train0\te11.99\n")
    prepare(tmp_path / "kept", source, "en", "D")
    assert Corpus(tmp_path / "kept").info.standing["diagnosis"] == {"exact": 20, "unknown": 1}
    prepare(tmp_path / "aside", source, "en", "D", invalid_codes="quarantine")
    assert (tmp_path / "aside" / "quarantine.parquet").exists()
    assert '"E11.99"' in refusal(tmp_path, source, invalid_codes="error")


def test_a_malformed_code_can_be_set_aside_with_its_evidence(tmp_path, source):
    append(source / "train" / "trainD.tsv", "train0\t11.e9\n")
    append(source / "train" / "trainX.tsv", "train0\tDIAGNOSTICO\t11.e9\tcaso\t0 4\n")
    prepare(tmp_path / "aside", source, "es", "D", invalid_codes="quarantine")
    spans = [s for s in Corpus(tmp_path / "aside").evidence() if s.note_id == "train0"]
    assert [(s.code, s.start) for s in spans] == [("E11.9", 8), ("E11.9", 26)]


def test_empty_pieces_of_evidence_are_dropped_and_counted(tmp_path, source):
    append(source / "dev" / "devX.tsv", "dev1\tDIAGNOSTICO\te11.9\tdiabetes\t8 8;8 16\n")
    prepare(tmp_path / "corpus", source, "es", "D")
    corpus = Corpus(tmp_path / "corpus")
    assert corpus.info.filters["empty_evidence_pieces_dropped"] == 1
    (span,) = (s for s in corpus.evidence() if s.note_id == "dev1")
    assert span == Span("dev1", "E11.9", 8, 16, span.group)


def test_a_corpus_that_is_there_is_kept_unless_overwritten(tmp_path, source):
    prepare(tmp_path / "corpus", source, "en", "D")
    with pytest.raises(IcdtuneError, match="already exists"):
        prepare(tmp_path / "corpus", source, "es", "D")
    assert Corpus(tmp_path / "corpus").info.name == "codiesp-en-D"
    prepare(tmp_path / "corpus", source, "es", "D", overwrite=True)
    assert Corpus(tmp_path / "corpus").info.name == "codiesp-es-D"


# Download, from a server on this machine


@pytest.fixture
def archive(source):
    """The small source, zipped as it is published: in a folder of its own."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as bundle:
        for path in sorted(source.rglob("*.*")):
            bundle.write(path, f"final_dataset_v4/{path.relative_to(source)}")
    return content.getvalue()


@pytest.fixture
def serve(monkeypatch):
    """Start a server that answers each path with bytes; gives its address and what was asked.

    `cut` is a path, and how many bytes of its answer never come.
    """
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(pages, cut=None):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                asked.append(self.path)
                if self.path not in pages:
                    self.send_error(404)
                    return
                content = pages[self.path]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: -cut[1]] if cut and self.path == cut[0] else content)

            def log_message(self, *_):
                pass

        asked = []
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def record(address, archive, checksum=None):
    """What the archive's host answers about a record."""
    digest = hashlib.md5(archive).hexdigest()
    link = f"{address}/codiesp.zip"
    file = {"key": "codiesp.zip", "checksum": f"md5:{checksum or digest}", "links": {"self": link}}
    readme = {"key": "README.md", "checksum": "md5:0", "links": {"self": f"{address}/no"}}
    return json.dumps({"files": [readme, file]}).encode()


def publish(serve, archive, checksum=None, **options):
    pages = {"/codiesp.zip": archive}
    address, asked = serve(pages, **options)
    pages["/record"] = record(address, archive, checksum)
    return f"{address}/record", asked


def failed_download(tmp_path, url):
    """The message of a download that fails; nothing may be left."""
    target = tmp_path / "downloads"
    with pytest.raises(IcdtuneError) as caught:
        download(target / "codiesp", url)
    assert not target.exists() or list(target.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_downloaded_archive_can_be_prepared(tmp_path, serve, archive):
    url, asked = publish(serve, archive)
    folder = download(tmp_path / "codiesp", url)
    assert folder == tmp_path / "codiesp"
    assert asked == ["/record", "/codiesp.zip"]
    prepare(tmp_path / "corpus", folder, "es", "D")
    assert Corpus(tmp_path / "corpus").info.splits["dev"].notes == 10


def test_what_was_downloaded_once_is_used_again(tmp_path, serve, archive):
    url, asked = publish(serve, archive)
    download(tmp_path / "codiesp", url)
    assert download(tmp_path / "codiesp", url) == tmp_path / "codiesp"
    assert len(asked) == 2


def test_a_wrong_checksum_is_refused_and_leaves_nothing(tmp_path, serve, archive):
    url, _ = publish(serve, archive, checksum="0" * 32)
    assert "codiesp.zip: checksum differs" in failed_download(tmp_path, url)


def test_an_unreachable_host_tells_the_way_round(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/record"
        message = failed_download(tmp_path, url)
    assert url in message
    assert "--source" in message


@pytest.mark.parametrize("page", [b"", b"<html>", b"{}", b'{"files": []}', b'{"files": 3}', b"[]"])
def test_a_record_that_lists_no_archive_tells_the_way_round(tmp_path, serve, page):
    address, _ = serve({"/record": page})
    assert "--source" in failed_download(tmp_path, f"{address}/record")
    assert "--source" in failed_download(tmp_path, f"{address}/absent")


@pytest.mark.parametrize("cut", [("/record", 1), ("/record", 200)])
def test_a_record_that_breaks_off_tells_the_way_round(tmp_path, serve, archive, cut):
    url, _ = publish(serve, archive, cut=cut)
    assert "--source" in failed_download(tmp_path, url)


def test_an_archive_that_breaks_off_is_refused_and_leaves_nothing(tmp_path, serve, archive):
    url, _ = publish(serve, archive, cut=("/codiesp.zip", 200))
    assert "codiesp" in failed_download(tmp_path, url).lower()


def test_an_archive_that_is_no_zip_file_tells_the_way_round(tmp_path, serve):
    url, _ = publish(serve, b"<html>down for maintenance</html>")
    assert "--source" in failed_download(tmp_path, url)
