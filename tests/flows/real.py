"""Copy the repository as a project with one small corpus and model, and serve a site for its crawler."""

import os
import random
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ruamel.yaml import YAML
from tiny_project import Project

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
    """Serve pages with ETags, answer 304 to a known ETag, and remove pages on request."""

    def __init__(self, pages: int) -> None:
        self.texts = {f"/{number}": prose(number) for number in range(pages)}
        self.removed: dict[str, int] = {}
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
        if path in self.removed or not (path == "/" or path in self.texts):
            return self.removed.get(path, 404), "", b""
        links = "".join(f'<a href="{target}">{target}</a> ' for target in self.texts) if path == "/" else ""
        body = f"<html><body><h1>Page {path}</h1><p>{self.texts.get(path, prose(-1))}</p>{links}</body></html>".encode()
        tag = f'"{hash(body)}"'
        return (304, tag, b"") if known == tag else (200, tag, body)

    def take_answers(self) -> dict[str, int]:
        """Return the status by page of all requests since the last call."""
        statuses, self.answers = dict(self.answers), []
        statuses.pop("/robots.txt", None), statuses.pop("/sitemap.xml", None)
        return statuses

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def prose(seed: int) -> str:
    """Generate about 300 words in sentences from a seed."""
    draw = random.Random(seed)
    return " ".join(" ".join(draw.choices(WORDS, k=draw.randint(6, 14))).capitalize() + "." for _ in range(30))


def project(root: Path, site: str | None) -> Project:
    """Copy the tracked files of the working tree, with a site (or twelve strings) as corpus and a small model."""
    tracked = subprocess.run(["git", "ls-files", "-z", "--cached"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    copy = object.__new__(Project)
    copy.root, copy.environment = root, {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "", "PREFECT_SERVER_API_PORT": "9"}
    for name in filter(None, tracked.split("\0")):
        if not name.startswith(("reports/", "dvc.lock", "tests/")) and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((ROOT / name).read_bytes())
    known = YAML(typ="safe").load(root / "params.yaml")
    YAML().dump(params(known, site), root / "params.yaml")
    copy.git("init", "--quiet")
    copy.commit()
    return copy


def params(known, site):
    """Reduce params.yaml to one small corpus, recipe and report."""
    recipe, docs = known["recipes"]["ladder_copilot"], known["recipes"]["docs_moe"]
    if site is None:
        corpora, recipe = {"words": known["corpora"]["twelve_strings"]}, known["recipes"]["ladder_memorise"]
        train = {**recipe["train"], "steps": 4000, "checkpoints": {"every": 50, "last": 2, "spaced": None, "best": False}}
        row = {**recipe, "corpus": "words", "train": train, "validate": {**recipe["validate"], "follow": None}}
    else:
        text = known["corpora"]["python_docs"]
        source = {**text["scrape"]["sources"][0], "start_urls": [f"{site}/"], "license": "CC0-1.0"}
        source["limits"] = {**source.get("limits", {}), "scope": "host"}
        policy = {
            **text["scrape"].get("crawl_policy", {}), "download_delay_seconds": 0.0, "allowed_private_hosts": ["127.0.0.1"],
            "user_agent_contact": "a@example.org",
        }  # fmt: skip
        tokens = {**text["tokenize"], "vocab_size": 512, "val_fraction": 0.2, "contamination_prompts": ["The "]}
        scrape = {**text["scrape"], "sources": [source], "crawl_policy": policy}
        corpora = {"words": {**text, "scrape": scrape, "tokenize": tokens}}
        train = {**recipe["train"], "batches": "packed", "length": 64, "batch": 8, "micro_batch": 8, "steps": 200, "samples": None}
        train |= {"held_out": {"every": 100, "rows": 4}, "checkpoints": {"every": 10, "last": 2, "spaced": None, "best": False}}
        validate = {**docs["validate"], "threads": 1, "small": {}, "also_count": {}, "speed": {"lengths": [32], "repeats": 5}}
        validate["memorise"] = {"rows": 2, "tokens": 16, "steps": 20, "rate": 0.01}
        validate["generation"] = {**validate["generation"], "prompts": ["The "], "heldout_prompts": 1, "tokens": 8}
        validate["probes"] = {
            **validate["probes"],
            "num_bracket_cases": 4,
            "num_pairs": 4,
            "context_tokens": 16,
            "continuation_tokens": 8,
        }
        row = {**docs, "corpus": "words", "model": recipe["model"], "train": train, "validate": validate}
    checks = {"words/tokenize.integrity.decode_mismatch": {"expect": "== 0", "hint": "the tokenizer loses text"}}
    report = {
        "title": "Proof",
        "recipes": ["small"],
        "corpora": ["words"],
        "schedule": {"cron": None, "max_regression_bits_per_byte": 0.05},
        "checks": checks,
    }
    return {"corpora": corpora, "recipes": {"small": row}, "reports": {"proof": report}}
