"""Sources of every kind in one corpus."""

import gzip
import json
import os
import re
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pdf_files import pdf_of_lines
from ruamel.yaml import YAML

from provenlm.core import config, interfaces, registry
from provenlm.core.errors import ProvenlmError
from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult
from provenlm.domains.text.scrape.spec import FeedSource, TextScrapeConfig
from provenlm.scraping.crawl.archive import WarcArchive

ROOT = Path(__file__).resolve().parents[3]
CRAWL_POLICY = {
    "user_agent_contact": "", "download_delay_seconds": 0.0, "timeout_seconds": 10.0, "max_attempts": 1, "max_retry_after_seconds": 1.0, "max_response_bytes": 5000,
    "allowed_private_hosts": [],
}  # fmt: skip
FOLDER = {"kind": "folder", "path": "notes", "include": [], "exclude": [], "license": None}
TABLE = {"files": ["rows/*"], "content": "text", "source": None, "metadata": ["title"], "license": None}
GIT = {"kind": "git", "url": "repo", "ref": "HEAD", "include": [], "exclude": [], "license": None}
WARC = {"kind": "warc", "files": ["kept/*"], "license": None}


def parse_sources(sources: list, topics: tuple = ()) -> TextScrapeConfig:
    section = {"sources": sources, "crawl_policy": CRAWL_POLICY, "topics": list(topics), "from_cache": False}
    return config.parse_config(TextScrapeConfig, section, "params.yaml: corpora.x.scrape")


def scrape(*sources: dict, topics: tuple = ()) -> dict[str, FetchResult]:
    spec = registry.load_domain("text", "scrape", interfaces.ScrapeSpec)
    fetches = list(spec.fetch(parse_sources(list(sources), topics), Path("state"), ProgressReporter("scrape", "URLs", None)))
    assert len({fetch.url for fetch in fetches}) == len(fetches), "a URL has two outcomes"
    return {fetch.url: fetch for fetch in fetches}


def outcomes(fetches: dict[str, FetchResult]) -> dict[str, str]:
    return {url: fetch.reason or fetch.state for url, fetch in fetches.items()}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of sources are relative to the folder of params.yaml, where a stage runs."""
    monkeypatch.chdir(tmp_path)


def write_file(name: str, content: bytes | str) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({**FOLDER, "kind": "foldr"}, "sources[1].kind: must be one of site, feed, git, folder, jsonl, parquet, csv, tsv, warc, records, got 'foldr' (did you mean 'folder'?)"),
        ({"path": "x"}, "sources[1]: missing key 'kind'; known: site, feed, git, folder, jsonl, parquet, csv, tsv, warc, records"),
        ({**FOLDER, "include": "*.md"}, "sources[1].include: must be a list, got '*.md'"),
        ({**FOLDER, "start_urls": []}, "sources[1]: unknown key 'start_urls'; known: kind, path, include, exclude, license, ignore, limit, sample_frac"),
        ({"kind": "warc"}, "sources[1]: missing key 'files'; known: kind, files, license, limit, sample_frac"),
        ("notes", "sources[1]: must be a mapping of keys, got 'notes'"),
        ({**GIT, "ref": "--upload-pack=x"}, "sources[1]: ref must be a branch, tag or commit, got '--upload-pack=x'"),
    ],
)  # fmt: skip
def test_an_invalid_source_is_named_with_its_location(source: object, message: str) -> None:
    with pytest.raises(ProvenlmError) as error:
        parse_sources([FOLDER, source])
    assert str(error.value).removeprefix("params.yaml: corpora.x.scrape.").startswith(message)


def test_a_missing_source_is_named_with_its_location() -> None:
    write_file("notes/a.md", "a")
    for source, message in (
        ({**FOLDER, "path": "nowhere"}, r"sources\[1\]: path must be an existing folder, got 'nowhere'"),
        ({**TABLE, "kind": "jsonl"}, r"sources\[1\]: files must match at least one file, got 'rows/\*'"),
        ({**GIT, "url": "nowhere.invalid"}, r"sources\[1\]: url: git fetch: "),
    ):
        with pytest.raises(ProvenlmError, match=message):
            scrape(FOLDER, source)


def parse_examples() -> list[TextScrapeConfig]:
    """Parse the YAML examples of the page on sources."""
    text = (ROOT / "docs/how-to/sources.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    return [config.parse_config(TextScrapeConfig, YAML(typ="safe").load(block), "docs/how-to/sources.md") for block in blocks]


def test_the_examples_of_the_documentation_are_valid() -> None:
    minimal_folder, minimal_site, complete, templates = parse_examples()
    assert [source.kind for source in minimal_folder.sources] == ["folder"]
    assert [source.kind for source in minimal_site.sources] == ["site"]
    assert [source.kind for source in complete.sources] == ["site", "feed", "git", "folder", "jsonl", "warc", "records"]
    assert [source.kind for source in templates.sources] == ["jsonl", "csv"]
    assert len(complete.topics) == 8


def test_the_complete_example_shows_the_defaults_of_a_crawl() -> None:
    _, minimal_site, complete, _ = parse_examples()
    assert minimal_site.web_sources[0].limits == complete.web_sources[0].limits
    assert minimal_site.crawl_policy == complete.crawl_policy
    feed = complete.web_sources[1]
    assert FeedSource("feed", feed.start_urls).limits == feed.limits


def test_a_source_needs_only_its_kind_and_its_location() -> None:
    for source in (
        {"kind": "folder", "path": "notes"},
        {"kind": "git", "url": "repo"},
        {"kind": "jsonl", "files": ["rows/*"]},
        {"kind": "parquet", "files": ["rows/*"]},
        {"kind": "warc", "files": ["kept/*"]},
        {"kind": "site", "start_urls": ["pydoc:stdlib"]},
    ):
        section = config.parse_config(TextScrapeConfig, {"sources": [source]}, "params.yaml: corpora.x.scrape")
        assert section.sources[0].license is None
        assert not section.from_cache


def test_files_become_records_according_to_their_type() -> None:
    write_file("notes/a.md", "# a\n\n    code\n")
    write_file("notes/deep/b.rst", "b\n=\n")
    write_file("notes/c.html", '<html lang="en"><title>C</title><nav>menu</nav><p>text</p>')
    write_file("notes/d.py", "# SPDX-License-Identifier: MIT\ndef f():\n\treturn 1\n")
    write_file("notes/latin.txt", "caf\xe9".encode("latin-1"))
    fetches = scrape(FOLDER)
    assert {url: (fetch.record.media_type, fetch.record.text) for url, fetch in fetches.items()} == {
        "notes/a.md": ("text/markdown", "# a\n\n    code\n"),
        "notes/c.html": ("text/plain", "text"),
        "notes/d.py": ("text/x-python", "# SPDX-License-Identifier: MIT\ndef f():\n\treturn 1\n"),
        "notes/deep/b.rst": ("text/x-rst", "b\n=\n"),
        "notes/latin.txt": ("text/plain", "café"),
    }
    assert fetches["notes/c.html"].record.metadata == {"site": "notes", "title": "C", "lang": "en"}
    assert fetches["notes/d.py"].record.metadata == {"site": "notes", "license": "MIT"}
    assert all(fetch.fetched_at for fetch in fetches.values())


def test_every_skipped_file_has_its_reason() -> None:
    write_file("notes/a.md", "a")
    write_file("notes/picture.png", b"\x89PNG\0\0")
    write_file("notes/empty.txt", " \n")
    write_file("notes/long.txt", "x" * 5001)
    write_file("notes/old/b.md", "b")
    write_file("notes/big.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    write_file("secret", "of another folder")
    Path("notes/link.md").symlink_to(Path("secret").absolute())
    Path("notes/loop").symlink_to(Path("notes").absolute())
    assert outcomes(scrape({**FOLDER, "exclude": ["old/**"]})) == {
        "notes/a.md": "record", "notes/picture.png": "binary", "notes/empty.txt": "empty", "notes/long.txt": "too-large",
        "notes/old/b.md": "excluded", "notes/big.bin": "lfs-pointer", "notes/link.md": "no-file", "notes/loop": "no-file",
    }  # fmt: skip


def test_patterns_choose_files_as_git_users_expect() -> None:
    for name in ("a.md", "b/c.md", "b/d/e.md", "b/f.txt"):
        write_file(f"notes/{name}", "x")

    def accepted(*patterns: str) -> list[str]:
        return [url.removeprefix("notes/") for url, fetch in scrape({**FOLDER, "include": list(patterns)}).items() if fetch.record]

    assert accepted("*.md") == ["a.md"]
    assert accepted("**/*.md") == ["a.md", "b/c.md", "b/d/e.md"]
    assert accepted("b/*") == ["b/c.md", "b/f.txt"]
    assert accepted("b/**", "?.md") == ["a.md", "b/c.md", "b/d/e.md", "b/f.txt"]


def test_the_text_of_a_pdf_is_extracted_and_a_damaged_pdf_is_named() -> None:
    write_file("notes/a.pdf", pdf_of_lines("Hello there"))
    write_file("notes/b.pdf", pdf_of_lines("Hello there")[:150])
    write_file("notes/c.pdf", b"no pdf at all")
    fetches = scrape(FOLDER)
    assert fetches["notes/a.pdf"].record.text == "Hello there"
    assert (fetches["notes/b.pdf"].reason, fetches["notes/c.pdf"].reason) == ("pdf-damaged", "pdf-damaged")


def git(*args: str) -> str:
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}
    options = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *options, *args], check=True, capture_output=True, text=True, env=environment).stdout.strip()


def repository() -> None:
    write_file("repo/README.md", "# read me")
    write_file("repo/src/a.py", "a = 1\n")
    write_file(
        "repo/LICENSE",
        "MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining a copy\nof this … without restriction …",
    )
    write_file("repo/data.bin", b"\0\1")
    Path("repo/link").symlink_to("/etc/passwd")
    git("init", "-q", "repo")
    git("-C", "repo", "add", "-A")
    git("-C", "repo", "commit", "-qm", "one")


def test_a_local_repository_gives_the_files_of_its_commit() -> None:
    repository()
    write_file("repo/uncommitted.md", "not there yet")
    fetches = scrape({**GIT, "exclude": ["LICENSE"]})
    assert outcomes(fetches) == {
        "repo#LICENSE": "excluded", "repo#README.md": "record", "repo#data.bin": "binary", "repo#link": "no-file", "repo#src/a.py": "record",
    }  # fmt: skip
    record = fetches["repo#src/a.py"].record
    assert (record.text, record.media_type) == ("a = 1\n", "text/x-python")
    assert record.metadata == {"site": "repo", "license": "MIT", "blob": git("-C", "repo", "rev-parse", "HEAD:src/a.py")}


def test_a_remote_repository_is_fetched_again_when_it_changes() -> None:
    repository()
    source = {**GIT, "url": f"file://{Path('repo').absolute()}"}
    assert sum(fetch.state == "record" for fetch in scrape(source).values()) == 3
    write_file("repo/new.md", "new")
    git("-C", "repo", "add", "-A")
    git("-C", "repo", "commit", "-qm", "two")
    (lock,) = [next(Path("state/git").glob("*.git")) / "shallow.lock"]
    lock.touch()  # as a killed fetch leaves it
    assert sum(fetch.state == "record" for fetch in scrape(source).values()) == 4
    assert (
        sum(fetch.state == "record" for fetch in scrape({**source, "ref": git("-C", "repo", "rev-parse", "HEAD~1")}).values()) == 3
    )


def test_a_missing_ref_is_named() -> None:
    repository()
    with pytest.raises(ProvenlmError, match=r"sources\[0\]: url: git rev-parse: .*"):
        scrape({**GIT, "ref": "no-such-branch"})


def jsonl(*items: object) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def test_rows_of_jsonl_become_records_and_invalid_ones_have_a_reason() -> None:
    lines = jsonl({"text": "a", "title": "A", "n": 1}, {"txt": "b"}, {"text": ""}, {"text": 5}, ["x"])
    write_file("rows/a.jsonl", lines + b'{"text": "half\n\n' + jsonl({"text": "y" * 4990}, {"text": "last \ud800"}))
    fetches = scrape({**TABLE, "kind": "jsonl", "license": "CC0-1.0"})
    assert outcomes(fetches) == {
        "rows/a.jsonl:1": "record", "rows/a.jsonl:2": "no-content", "rows/a.jsonl:3": "empty", "rows/a.jsonl:4": "no-content",
        "rows/a.jsonl:5": "json", "rows/a.jsonl:6": "json", "rows/a.jsonl:8": "too-large", "rows/a.jsonl:9": "record",
    }  # fmt: skip
    assert fetches["rows/a.jsonl:1"].record.metadata == {"site": "rows/a.jsonl", "license": "CC0-1.0", "title": "A"}
    assert fetches["rows/a.jsonl:9"].record.text == "last ?"


def test_a_line_of_50_mb_is_skipped_and_the_next_one_is_read() -> None:
    write_file("rows/a.jsonl", b'{"text": "' + b"x" * 50_000_000 + b'"}\n' + jsonl({"text": "after"}))
    fetches = scrape({**TABLE, "kind": "jsonl"})
    assert outcomes(fetches) == {"rows/a.jsonl:1": "too-large", "rows/a.jsonl:2": "record"}
    assert fetches["rows/a.jsonl:1"].received_bytes > 50_000_000


def test_a_truncated_compressed_jsonl_gives_the_rows_before_the_end() -> None:
    packed = gzip.compress(jsonl(*({"text": f"row {os.urandom(200).hex()}"} for _ in range(200))))
    write_file("rows/a.jsonl.gz", packed[: len(packed) // 2])
    write_file("rows/b.jsonl", jsonl({"text": "b"}))
    fetches = scrape({**TABLE, "kind": "jsonl"})
    assert sum(fetch.state == "record" for fetch in fetches.values()) > 50
    assert [fetch.reason for fetch in fetches.values() if fetch.state == "failed"] == ["damaged"]
    assert fetches["rows/b.jsonl:1"].state == "record"


def test_rows_of_parquet_become_records_named_by_a_column() -> None:
    Path("rows").mkdir()
    table = pa.table(
        {"text": ["a", None, "c" * 6000], "url": ["http://h/a", "http://h/b", "http://h/c"], "title": ["A", None, None]}
    )
    pq.write_table(table, "rows/a.parquet")
    fetches = scrape({**TABLE, "kind": "parquet", "source": "url"})
    assert outcomes(fetches) == {"http://h/a": "record", "rows/a.parquet:2": "no-content", "rows/a.parquet:3": "too-large"}
    assert (fetches["http://h/a"].record.source, fetches["http://h/a"].record.metadata["title"]) == ("http://h/a", "A")
    with pytest.raises(
        ProvenlmError, match=r"sources\[0\]: content: none of 3 rows has column 'body'; must be one of: text, url, title"
    ):
        scrape({**TABLE, "kind": "parquet", "content": "body"})


def test_a_parquet_file_cut_in_half_is_named_and_the_next_one_is_read() -> None:
    Path("rows").mkdir()
    pq.write_table(pa.table({"text": ["a"] * 99, "title": ["x"] * 99}), "rows/b.parquet")
    content = Path("rows/b.parquet").read_bytes()
    write_file("rows/a.parquet", content[: len(content) // 2])
    fetches = scrape({**TABLE, "kind": "parquet"})
    assert fetches["rows/a.parquet:1"].reason == "damaged"
    assert sum(fetch.state == "record" for fetch in fetches.values()) == 99


def test_a_damaged_parquet_file_gives_the_rows_before_the_damage() -> None:
    Path("rows").mkdir()
    texts = [os.urandom(500).hex() for _ in range(2000)]
    pq.write_table(pa.table({"text": texts, "title": ["x"] * 2000}), "rows/a.parquet", row_group_size=500, compression="zstd")
    content = bytearray(Path("rows/a.parquet").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 5000] = bytes(5000)
    write_file("rows/a.parquet", bytes(content))
    fetches = scrape({**TABLE, "kind": "parquet"})
    assert [fetch.record.text for fetch in fetches.values() if fetch.record][:500] == texts[:500]
    assert [fetch.reason for fetch in fetches.values() if fetch.state == "failed"] == ["damaged"]


def build_warc(*pages: tuple[str, bytes]) -> tuple[bytes, list[int]]:
    """A WARC file of `pages`, and where its records begin."""
    archive = WarcArchive(Path("made"), {})
    entries = [archive.append(url, {"Content-Type": "text/html"}, content, "2026-03-01T12:00:00+00:00") for url, content in pages]
    return (Path("made") / entries[0].file).read_bytes(), [entry.offset for entry in entries]


PAGES = [(f"http://h/{number}", f"<title>t</title><p>page {number} {os.urandom(300).hex()}".encode()) for number in range(4)]


def test_responses_of_a_warc_become_records_with_their_date() -> None:
    write_file("kept/a.warc.gz", build_warc(*PAGES, ("http://h/0", b"<p>again"))[0])
    fetches = scrape(WARC)
    assert outcomes(fetches) == {**{url: "record" for url, _ in PAGES}, "http://h/0 (2)": "repeated"}
    assert (fetches["http://h/1"].fetched_at, fetches["http://h/1"].record.metadata["title"]) == ("2026-03-01T12:00:00Z", "t")


@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_warc_record_is_named_and_the_others_are_read(packed: bool) -> None:
    content, offsets = build_warc(*PAGES)
    if not packed:
        ends = [*offsets[1:], len(content)]
        parts = [gzip.decompress(content[begin:end]) for begin, end in zip(offsets, ends, strict=True)]
        offsets = [sum(map(len, parts[:number])) for number in range(4)]
        content = b"".join(parts)
    damaged = bytearray(content)
    damaged[offsets[1] + (40 if packed else 0) : offsets[1] + 60] = b"#" * (20 if packed else 60)
    write_file("kept/a.warc", bytes(damaged[:-30]))  # the second is damaged, the last is cut off
    fetches = scrape(WARC)
    assert outcomes(fetches) == {
        "http://h/0": "record", f"kept/a.warc:{offsets[1]}": "damaged", "http://h/2": "record", f"kept/a.warc:{offsets[3]}": "damaged",
    }  # fmt: skip


def test_a_warc_record_that_decompresses_to_too_much_is_skipped() -> None:
    content, _ = build_warc(PAGES[0], ("http://h/bomb", bytes(20_000_000)), PAGES[1])
    write_file("kept/a.warc.gz", content)
    write_file("kept/b.warc", b"")
    write_file("kept/c.warc", b"no warc at all")
    assert outcomes(scrape(WARC)) == {
        "http://h/0": "record", "http://h/bomb": "too-large", "http://h/1": "record", "kept/c.warc:0": "damaged",
    }  # fmt: skip


def test_of_the_same_url_in_two_sources_the_first_is_kept() -> None:
    write_file("notes/a.md", "a note")
    write_file("rows/a.jsonl", jsonl({"text": "a row", "url": "http://h/0"}))
    write_file("kept/a.warc.gz", build_warc(*PAGES[:2])[0])
    fetches = scrape(FOLDER, {**TABLE, "kind": "jsonl", "source": "url"}, WARC, {**FOLDER, "license": "MIT"})
    assert outcomes(fetches) == {
        "notes/a.md": "record", "http://h/0": "record", "http://h/0 (2)": "repeated", "http://h/1": "record", "notes/a.md (2)": "repeated",
    }  # fmt: skip
    assert fetches["http://h/0"].record.text == "a row"


def test_topics_are_assigned_by_url_first_and_then_by_keywords() -> None:
    for name, text in (
        ("ctf/a.md", "nothing"),
        ("b.md", "Nmap, nmap; bounty"),
        ("c.md", "a bounty, a bounty"),
        ("d.md", "nmaps, mobile"),
    ):
        write_file(f"notes/{name}", text)
    topics = (
        {"name": "ctf", "url_patterns": ["/ctf/"], "keywords": [], "min_matches": 1},
        {"name": "tools", "url_patterns": [], "keywords": ["nmap", "burp suite"], "min_matches": 2},
        {"name": "bounty", "url_patterns": [], "keywords": ["bounty"], "min_matches": 1},
    )
    fetches = scrape(FOLDER, topics=topics)
    assert {url: fetch.record.metadata.get("topic") for url, fetch in fetches.items()} == {
        "notes/ctf/a.md": "ctf", "notes/b.md": "tools", "notes/c.md": "bounty", "notes/d.md": None,
    }  # fmt: skip
    with pytest.raises(ProvenlmError, match=r"scrape.topics\[0\]: name must not be empty"):
        parse_sources([FOLDER], ({"name": "x", "url_patterns": [], "keywords": [], "min_matches": 1},))
