"""A report's files, its audits and what lies on disk in; one sentence for each thing that does not fit, out.

Four questions: do the files say what the audits and bounds say now; was each audit made by the stage, with the params and the code
that lie here; is it the one that DVC recorded; and do the audits fit each other, each having read what the one before it wrote.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from provenlm.core import hashing
from provenlm.core.audit import Figure
from provenlm.reporting.evidence import Source

Digests = Callable[[str], str | None]  # of the file or folder at a path below the project's root; None if it is not there


def differences(rendered: Mapping[str, bytes], found: Mapping[str, bytes]) -> list[str]:
    """Files of a report that are not what its audits and bounds make; both sides by the same addresses."""
    missing = [f"{address}: not there" for address in rendered if address not in found]
    strange = [f"{address}: no audit has such a plot" for address in found if address not in rendered]
    changed = [_change(a, rendered[a], found[a]) for a in rendered if a in found and rendered[a] != found[a]]
    return missing + strange + changed


def _change(address: str, rendered: bytes, found: bytes) -> str:
    pairs = zip_longest(rendered.decode().splitlines(), found.decode(errors="replace").splitlines(), fillvalue="")
    for number, (ours, theirs) in enumerate(pairs, start=1):
        if ours != theirs:
            here = next((i for i, (a, b) in enumerate(zip_longest(ours, theirs)) if a != b), 0)
            return f"{address}: line {number} says {_near(theirs, here)} where the audits say {_near(ours, here)}"
    return f"{address}: differs in its line ends"


def _near(line: str, position: int, reach: int = 24) -> str:
    return repr(line[max(0, position - reach) : position + reach])


def counts_faults(own: Source, counts: Mapping[str, Figure]) -> list[str]:
    """Counts of checks in the report's own audit that are not those of its checks."""
    figures = own.audit.figures if own.audit else {}
    return [f"{own.name}.{name}: not {figure.value}" for name, figure in counts.items() if figures.get(name) != figure]


def audit_faults(source: Source, digests: Digests, section: Callable[[str], Any]) -> list[str]:
    """What an audit says about itself that is not so here. `section` gives the value of a dotted key of params.yaml, or None."""
    if source.audit is None:
        return [f"{source.name}: no audit"]
    audit, facts = source.audit, source.audit.provenance
    found = []
    if (audit.subject, audit.stage) != (source.subject, source.stage):
        found.append(f"{source.path}: is an audit of {audit.subject}/{audit.stage}")
    if facts.get("params_digest") != hashing.of_json(facts.get("params")):
        found.append(f"{source.name}: the digest of its params is not theirs")
    found += [
        f"{source.name}: {key} in params.yaml is not what it was run with"
        for key, value in facts.get("params", {}).items()
        if hashing.of_json(section(key)) != hashing.of_json(value)
    ]
    for role in ("inputs", "outputs"):
        found += [fault for path, known in facts.get(role, []) if (fault := _file_fault(source, role, path, known, digests(path)))]
    return found


def _file_fault(source: Source, role: str, path: str, known: str, now: str | None) -> str | None:
    if now is None:
        return f"{source.name}: {path} is not there; `dvc pull` or `dvc repro` brings it"
    return None if now == known else f"{source.name}: {path} has changed since it was among its {role}"


def record_fault(source: Source, recorded: Mapping[str, str], md5: Digests, path: str) -> list[str]:
    """Whether the audit at `path` is the one that DVC recorded when its stage ran; DVC may never have run it.

    An edited audit is otherwise consistent with a report that was made again from it.
    """
    fits = path not in recorded or md5(path) == recorded[path]
    return [] if fits else [f"{source.name}: {path} is not what DVC recorded in dvc.lock when the stage ran"]


def chain_faults(sources: Sequence[Source]) -> list[str]:
    """Audits that read something else than what the audit before them wrote: one of the two is of another run."""
    written: dict[str, tuple[str, str]] = {}
    found = []
    for source in sources:
        facts = source.audit.provenance if source.audit else {}
        for path, known in facts.get("inputs", []):
            writer, wrote = written.get(path, ("", known))
            if wrote != known:
                found.append(f"{source.name}: read another {path} than {writer} wrote")
        written |= {path: (source.name, known) for path, known in facts.get("outputs", [])}
    return found


def code_fault(source: Source, code_digest: Callable[[Sequence[str]], str | None]) -> list[str]:
    """Whether the code that made an audit is the code that lies here. `code_digest` is None if a file is gone."""
    facts = source.audit.provenance if source.audit else {}
    fits = code_digest(facts.get("code", [])) == facts.get("code_digest")
    return [] if fits else [f"{source.name}: made by other code than lies here"]
