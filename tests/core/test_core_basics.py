"""Test digests, random seeds, atomic writes, progress lines and the plug-in registry."""

import hashlib
import json
import logging
import subprocess
import sys

import pytest

from provenlm.core import hashing, interfaces, io, progress, registry, rng
from provenlm.core.errors import ProvenlmError


def test_a_json_digest_does_not_depend_on_the_order_of_keys():
    assert hashing.sha256_json({"a": 1, "b": [2]}) == hashing.sha256_json({"b": [2], "a": 1})
    assert hashing.sha256_json([]) == hashlib.sha256(b"[]").hexdigest()


def test_a_folder_digest_changes_with_a_name_and_with_a_byte(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    first = hashing.sha256_path(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = hashing.sha256_path(tmp_path)
    (tmp_path / "b").write_bytes(b"2")
    assert len({first, second, hashing.sha256_path(tmp_path)}) == 3


def test_seeds_depend_on_every_name_and_are_reproducible():
    assert rng.derive_seed(1, "a", 2) == rng.derive_seed(1, "a", 2)
    assert len({rng.derive_seed(1, "a"), rng.derive_seed(2, "a"), rng.derive_seed(1, "b"), rng.derive_seed(1, "a", "")}) == 4
    assert rng.make_rng(1, "a").random() == rng.make_rng(1, "a").random()


def test_hashes_to_the_unit_interval_are_uniform():
    values = [rng.hash_to_unit(str(i), "split") for i in range(4000)]
    assert min(values) >= 0 and max(values) < 1
    assert sum(value < 0.1 for value in values) == pytest.approx(400, abs=60)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    io.write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError):
        io.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_failed_folder_write_leaves_the_old_folder(tmp_path):
    with io.atomic_dir(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
    with pytest.raises(RuntimeError), io.atomic_dir(tmp_path / "out") as folder:
        (folder / "b").write_text("2")
        raise RuntimeError
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "a"]


def test_progress_without_a_terminal_is_json_lines():
    code = (
        "from provenlm.core.progress import progress_bar\nwith progress_bar('crawl','pages',2) as p:\n p.update()\n p.update(1,'x')"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert out[0] == '::progress {"label": "crawl", "done": 1, "total": 2, "unit": "pages", "postfix": ""}'
    assert json.loads(out[1].removeprefix("::progress "))["done"] == 2


def test_a_closed_pipe_does_not_kill_the_writer(tmp_path):
    code = (
        "import sys, time, pathlib\nfrom provenlm.core.progress import log_line\nlog_line('one')\ntime.sleep(0.5)\n"
        f"for i in range(3): log_line('more')\npathlib.Path({str(tmp_path / 'saved')!r}).write_text('yes')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "one\n"
    process.stdout.close()
    assert process.wait(30) == 0
    assert (tmp_path / "saved").read_text() == "yes"


def test_an_unknown_domain_is_an_error_that_names_the_known_ones():
    with pytest.raises(ProvenlmError, match="domain must be one of .*strings.*text, got 'texts'"):
        registry.load_domain("texts", "filter", interfaces.FilterSpec)


def test_log_lines_go_through_the_logger_of_the_package(capsys, monkeypatch):
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    progress.log_line("one 100 %")
    assert capsys.readouterr().out == "one 100 %\n"
    monkeypatch.setattr(logging.getLogger("provenlm"), "handlers", [handler])
    progress.log_line("two")
    assert capsys.readouterr().out == "" and [record.getMessage() for record in records] == ["two"]
