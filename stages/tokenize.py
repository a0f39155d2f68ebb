"""Unique records in; out, a codec learned on those of the training side, and the token arrays of both sides."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provenlm.core import audit as audits
from provenlm.core import interfaces, io, records, registry
from provenlm.core.errors import UserError
from provenlm.core.executors.base import Corpus, Work
from provenlm.core.interfaces import Codec
from provenlm.core.progress import Progress, progress
from provenlm.core.records import Record
from provenlm.data import integrity, metrics, token_dataset
from provenlm.data.token_dataset import Document
from stages import runner


def body(run: runner.Run) -> None:
    face = registry.load_domain(run.row["domain"], "tokenize", interfaces.Tokenizing)
    settings: Any = run.settings("tokenize", face.settings)
    source = run.reads(run.layout.corpus(run.subject, "deduped"))
    history = {name: audits.read(run.reads(run.layout.audit(run.subject, name))) for name in ("scrape", "filter", "dedupe")}
    target = run.writes(run.layout.corpus(run.subject, "tokens"))
    metrics.check_chain(history, records.count(source))
    held_out = face.held_out(settings)

    def training() -> Iterator[Record]:
        return (item for item in records.read(source) if token_dataset.side(cluster_of(item), held_out) == "train")

    if next(training(), None) is None:
        where = run.params.where("corpora", run.subject, "tokenize")
        raise UserError(f"{where}: held_out {held_out} leaves no record of {records.count(source)} to train on; lower it")
    tally = metrics.Tally()
    with io.new_folder(target) as folder, progress(f"tokenize {run.subject}", "records", records.count(source)) as bar:
        codec = face.learn(settings, training)
        codec.save(folder / "codec")
        documents = encoded(run.records(source), codec, held_out, tally, bar)
        token_dataset.write(folder, documents, codec.vocabulary, codec.special, held_out)
    tokens = token_dataset.read(target)
    metrics.record(run.audit, codec, tally)
    integrity.record(run.audit, integrity.check(records.read(source), tokens, codec, face.probes(settings)))
    metrics.balance(run.audit, history, tally, len(tokens.train.ids) + len(tokens.val.ids))
    run.audit.tables.append(metrics.yields(history, tally))
    share = tally.bytes["train"] / max(1, metrics.figure(history, "scrape", "bytes"))
    run.audit.counted("yield", round(share, 6), "share", "bytes of the scraped records that the trainer will see as tokens")


def cluster_of(item: Record) -> str:
    """UserError if dedupe did not leave its mark: without clusters, near twins could straddle the split."""
    cluster = item.facts.get("cluster")
    if not isinstance(cluster, str):
        raise UserError(f"record {item.id} from {item.source}: no duplicate cluster; run dedupe again")
    return cluster


def encoding(codec: Codec) -> Work[NDArray[np.uint32]]:
    return Work(codec.encode, lambda ids: ids.tobytes(), lambda packed: np.frombuffer(packed, np.uint32))


def encoded(corpus: Corpus, codec: Codec, held_out: float, tally: metrics.Tally, bar: Progress) -> Iterator[Document]:
    """Each record as a document."""
    for item, ids in corpus.map(encoding(codec)):
        cluster = cluster_of(item)
        side = token_dataset.side(cluster, held_out)
        around = sum(name in codec.special for name in ("bos", "eos"))
        tally.documents[side] += 1
        tally.tokens[side] += len(ids) + around
        tally.bytes[side] += len(item.body)
        tally.clusters[side].add(cluster)
        tally.lengths.append(len(ids) + around)
        tally.body_tokens += len(ids)
        tally.body_words += len(item.body.split())
        tally.unlearned += codec.unlearned(ids)
        bar.advance()
        yield Document(item.id, cluster, len(item.body), ids)


if __name__ == "__main__":
    runner.main("tokenize", "corpora", body, __doc__)
