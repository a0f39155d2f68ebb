"""Records and the token arrays that were written of them in; out, which records stand in the arrays: all of them are looked for.

A record is found when the document under its id, read back from the file and decoded, has the digest that the record is named by.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from provenlm.core import hashing
from provenlm.core.audit import Recorder, Table
from provenlm.core.interfaces import Codec
from provenlm.core.records import Record
from provenlm.data.token_dataset import SIDES, Split, Tokens

SHOWN = 20  # records shown of each fault; places of origin shown of each kind
ORIGINS = ("site", "domain", "licence", "language", "profile")  # facts of a record by which the corpus is broken down


@dataclass
class Checked:
    """`differing`: their document decodes to something else; `missing`: there is none; `strange`: documents that are no record."""

    found: int = 0
    differing: list[Record] = field(default_factory=list)
    missing: list[Record] = field(default_factory=list)
    strange: int = 0
    probes: dict[str, Counter[str]] = field(default_factory=dict)  # of each probe, in how many records of each side it stands
    origins: dict[str, dict[str, Counter[str]]] = field(default_factory=lambda: {fact: {} for fact in ORIGINS})


def check(records: Iterable[Record], tokens: Tokens, codec: Codec, probes: Sequence[str]) -> Checked:
    """Look for each of `records` in `tokens`, and for each of `probes` in the records. In memory: one record, and the place of each."""
    sides: dict[str, Split] = {"train": tokens.train, "val": tokens.val}
    places = {identity: (side, place) for side in SIDES for place, identity in enumerate(sides[side].record_ids)}
    checked = Checked(probes={probe: Counter() for probe in probes})
    for record in records:
        side, place = places.pop(record.id, (None, 0))
        if side is None:
            checked.missing.append(record)
            continue
        split = sides[side]
        ids = split.ids[split.starts[place] : split.starts[place + 1]].tolist()
        whole, words = hashing.of_bytes(codec.decode(ids))[: len(record.id)] == record.id, len(record.body.split())
        checked.found += whole
        if not whole:
            checked.differing.append(record)
        for probe, sides_of in checked.probes.items():
            sides_of[side] += probe.encode() in record.body
        for fact in ORIGINS:
            tally = checked.origins[fact].setdefault(origin(record, fact), Counter())
            tally.update(records=1, bytes=len(record.body), words=words, tokens=len(ids), **{side: len(ids)})
            tally["whole"] += whole
    checked.strange = len(places)
    return checked


def origin(record: Record, fact: str) -> str:
    """What `record` says of itself; its host where it does not name its site, `unknown` where it does not say."""
    said = record.facts.get(fact)
    if said is None and fact == "site":
        return urlsplit(record.source).netloc or record.source.split(":", 1)[0]
    return "unknown" if said is None else str(said)


def record(audit: Recorder, checked: Checked) -> None:
    meaning = "records whose document, read back from the arrays and decoded, has the digest that the record is named by"
    audit.counted("found", checked.found, "records", meaning)
    audit.counted("missing", len(checked.missing), "records", "unique records that stand nowhere in the arrays; all are looked for")
    audit.counted("strange", checked.strange, "documents", "documents of the arrays that are none of the unique records")
    meaning = "records that differ when decoded again; every record is tried"
    audit.counted("round_trip_failures", len(checked.differing), "records", meaning)
    for name, meaning, faulty in (
        ("round_trip", "that differ when decoded again", checked.differing),
        ("missing", "that stand nowhere in the arrays", checked.missing),
    ):
        rows = [(item.id, item.source) for item in faulty[:SHOWN]]
        if rows or name == "round_trip":
            audit.tables.append(Table(name, f"the first {SHOWN} records {meaning}", ("id", "source"), rows))
    if checked.probes:
        audit.counted("probes", len(checked.probes), "probes", "texts that a trained net will be asked about")
        for side, name in (("train", "training"), ("val", "held-out")):
            count = sum(counts[side] > 0 for counts in checked.probes.values())
            audit.counted(f"probes.{side}", count, "probes", f"probes that stand, letter by letter, in a {name} record")
        stands = [(repr(probe), counts["train"], counts["val"]) for probe, counts in checked.probes.items()]
        meaning = "in how many records each probe stands: of one that stands in training, memory alone can know how it goes on"
        audit.tables.append(Table("probes", meaning, ("probe", "training", "held out"), stands))
    for fact, values in checked.origins.items():
        if values.keys() - {"unknown"}:
            audit.counted(f"origins.{fact}", len(values.keys() - {"unknown"}), "values", f"different values of the fact `{fact}`")
            audit.tables.append(breakdown(fact, values))


def breakdown(fact: str, values: dict[str, Counter[str]]) -> Table:
    """What the corpus consists of by one fact, the largest first."""
    whole = max(1, sum(tally["tokens"] for tally in values.values()))
    order = sorted(values, key=lambda value: (-values[value]["tokens"], value))
    rows: list[Sequence[int | float | str]] = []
    for value in order[:SHOWN]:
        tally = values[value]
        shares = (round(tally["tokens"] / whole, 4), round(tally["val"] / max(1, tally["tokens"]), 4))
        rates = (round(tally["bytes"] / max(1, tally["tokens"]), 3), round(tally["tokens"] / max(1, tally["words"]), 3))
        back = round(tally["whole"] / tally["records"], 4)
        rows.append((value, tally["records"], tally["bytes"], tally["tokens"], *shares, *rates, back))
    columns = (fact, "records", "bytes", "tokens", "share of tokens", "held out", "bytes a token", "tokens a word", "round trip")
    meaning = f"records by {fact}" if len(order) <= SHOWN else f"records by {fact}, the largest {SHOWN} of {len(order)}"
    return Table(f"by_{fact}", meaning, columns, rows)
