"""The repository itself as a project of its own, with one small corpus and one small net, and a site on loopback for its crawler."""

import os
import random
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from conftest import Project
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    "the",
    "a",
    "one",
    "every",
    "stage",
    "record",
    "page",
    "corpus",
    "token",
    "net",
    "step",
    "loss",
    "model",
    "version",
    "reads",
    "writes",
    "keeps",
    "counts",
    "shows",
    "makes",
    "finds",
    "drops",
    "holds",
    "asks",
    "of",
    "to",
    "in",
    "from",
    "with",
    "before",
    "after",
    "and",
    "or",
    "but",
    "small",
    "large",
    "new",
    "old",
    "same",
    "last",
    "first",
    "good",
    "wrong",
    "half",
    "whole",
    "is",
    "was",
    "are",
]


class Site:
    """Pages that name their version in an ETag, are not sent twice to who knows it, and may go."""

    def __init__(self, pages: int) -> None:
        self.texts = {f"/{number}": prose(number) for number in range(pages)}
        self.gone: dict[str, int] = {}
        self.answers: list[tuple[str, int]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, tag, body = site.answer(self.path, self.headers.get("If-None-Match"))
                site.answers.append((self.path, status))
                self.send_response(status)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                if tag:
                    self.send_header("ETag", tag)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str, known: str | None) -> tuple[int, str, bytes]:
        if path in self.gone or not (path == "/" or path in self.texts):
            return self.gone.get(path, 404), "", b""
        links = "".join(f'<a href="{other}">{other}</a> ' for other in self.texts) if path == "/" else ""
        body = f"<html><body><h1>Page {path}</h1><p>{self.texts.get(path, prose(-1))}</p>{links}</body></html>".encode()
        tag = f'"{hash(body)}"'
        return (304, tag, b"") if known == tag else (200, tag, body)

    def asked(self) -> dict[str, int]:
        """The answers since the last time, by page."""
        found, self.answers = dict(self.answers), []
        found.pop("/robots.txt", None), found.pop("/sitemap.xml", None)
        return found

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def prose(seed: int) -> str:
    """Some 300 words in sentences, the same for the same seed."""
    draw = random.Random(seed)
    return " ".join(" ".join(draw.choices(WORDS, k=draw.randint(6, 14))).capitalize() + "." for _ in range(30))


def project(root: Path, site: str | None) -> Project:
    """The files of the working tree that git knows, with `site` (or else twelve strings) as the corpus and a net that a report holds."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    made = object.__new__(Project)
    made.root, made.environment = root, {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "", "PREFECT_SERVER_API_PORT": "9"}
    for name in filter(None, listed.split("\0")):
        if not name.startswith(("reports/", "dvc.lock", "tests/")) and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((ROOT / name).read_bytes())
    known = YAML(typ="safe").load(root / "params.yaml")
    YAML().dump(params(known, site), root / "params.yaml")
    made.git("init", "--quiet")
    made.commit()
    return made


def params(known, site):
    """Of the sections of params.yaml, those that are needed, made small."""
    recipe, docs = known["recipes"]["ladder_copilot"], known["recipes"]["docs_moe"]
    if site is None:
        corpora, recipe = {"words": known["corpora"]["twelve_strings"]}, known["recipes"]["ladder_memorise"]
        train = {**recipe["train"], "steps": 4000, "checkpoints": {"every": 50, "last": 2, "spaced": None, "best": False}}
        row = {**recipe, "corpus": "words", "train": train, "validate": {**recipe["validate"], "follow": None}}
    else:
        text = known["corpora"]["python_docs"]
        source = {**text["scrape"]["sources"][0], "start": [f"{site}/"], "licence": "CC0-1.0"}
        source["bounds"] = {**source["bounds"], "scope": "host"}
        manners = {**text["scrape"]["manners"], "delay_seconds": 0.0, "allow_private": ["127.0.0.1"], "contact": "a@example.org"}
        tokens = {**text["tokenize"], "vocabulary": 512, "held_out": 0.2, "probes": ["The "]}
        scrape = {**text["scrape"], "sources": [source], "manners": manners}
        corpora = {"words": {**text, "scrape": scrape, "tokenize": tokens}}
        train = {**recipe["train"], "batches": "packed", "length": 64, "batch": 8, "micro_batch": 8, "steps": 200, "samples": None}
        train |= {"held_out": {"every": 100, "rows": 4}, "checkpoints": {"every": 10, "last": 2, "spaced": None, "best": False}}
        validate = {**docs["validate"], "threads": 1, "small": {}, "also_count": {}, "speed": {"lengths": [32], "repeats": 5}}
        validate["memorise"] = {"rows": 2, "tokens": 16, "steps": 20, "rate": 0.01}
        validate["generation"] = {**validate["generation"], "prompts": ["The "], "heldout_prompts": 1, "tokens": 8}
        validate["probes"] = {**validate["probes"], "bracket_cases": 4, "pairs": 4, "context_tokens": 16, "continuation_tokens": 8}
        row = {**docs, "corpus": "words", "model": recipe["model"], "train": train, "validate": validate}
    checks = {"words/tokenize.round_trip_failures": {"expect": "== 0", "hint": "the tokenizer loses text"}}
    report = {
        "title": "Proof",
        "recipes": ["small"],
        "corpora": ["words"],
        "schedule": {"cron": None, "worse": 0.05},
        "checks": checks,
    }
    return {"corpora": corpora, "recipes": {"small": row}, "reports": {"proof": report}}
