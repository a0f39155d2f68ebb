"""Read the scores inside the music21 package, each with its license tag."""

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from provenlm.core.errors import ConfigError
from provenlm.domains.music.scrape.parsers import ABC, MEDIA_TYPES
from provenlm.scraping.sources.items import SourceItem

LICENSES = {
    "bach": "encoder-permission (Margaret Greentree)",
    "ryansMammoth": "public-domain tunes, transcribers credited",
    "oneills1850": "public-domain tunes, transcribers credited",
    "airdsAirs": "public-domain tunes, transcribers credited",
}
RESTRICTED_LICENSES = {
    "palestrina": "all derivative electronic formats reserved (John Miller)",
    "essenFolksong": "non-commercial only, legal status unclear",
    **dict.fromkeys(
        ("beach", "beethoven", "chopin", "ciconia", "corelli", "cpebach", "handel", "haydn", "johnson_j_r", "joplin", "josquin",
         "leadSheet", "liliuokalani", "luca", "lusitano", "miscFolk", "monteverdi", "mozart", "nottingham-dataset", "schoenberg",
         "schubert", "schumann_clara", "schumann_robert", "trecento", "verdi", "weber", "webern"),
        "terms not stated",
    ),
}  # fmt: skip
TUNE_START = re.compile(rb"(?m)^(?=X:\s*\d+)")


@dataclass(frozen=True)
class Music21Source:
    """Configure collections of the music21 package as a source.

    collections: names of its folders. accept_license: collections with unclear or restrictive terms that the user accepts by name.
    """

    kind: Literal["music21"]
    collections: tuple[str, ...] = tuple(LICENSES)
    accept_license: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        licenses = {**LICENSES, **RESTRICTED_LICENSES}
        for field_name in ("collections", "accept_license"):
            for name in getattr(self, field_name):
                if name not in licenses:
                    raise ValueError(f"{field_name} must be among {', '.join(sorted(licenses))}, got {name!r}")
        if not self.collections:
            raise ValueError("collections must name at least one collection, got none")
        for name in self.collections:
            if name in RESTRICTED_LICENSES and name not in self.accept_license:
                raise ValueError(
                    f"accept_license must name {name!r} ({RESTRICTED_LICENSES[name]}), got {list(self.accept_license)}"
                )


def read_music21(source: Music21Source) -> Iterator[SourceItem]:
    """Yield every score of the collections in path order.

    An ABC file gives one item for each tune.

    Raises ConfigError if music21 is not installed.
    """
    root = corpus_folder()
    for collection in source.collections:
        license_tag = {**LICENSES, **RESTRICTED_LICENSES}[collection]
        metadata = {"site": "music21", "collection": collection, "license": license_tag}
        for path in sorted((root / collection).rglob("*")):
            if media_type := MEDIA_TYPES.get(path.suffix.lower()):
                content = path.read_bytes()
                url = f"music21:{path.relative_to(root).as_posix()}"
                yield from split_tunes(SourceItem(url, content, media_type, metadata, len(content)))


def split_tunes(item: SourceItem) -> Iterator[SourceItem]:
    """Yield each tune of an ABC file as an item; other items as they are."""
    tunes = [piece for piece in TUNE_START.split(item.content) if piece.startswith(b"X:")] if item.media_type == ABC else []
    if len(tunes) < 2:
        yield item
        return
    for tune in tunes:
        number = tune[2:].split(b"\n", 1)[0].split(b"%", 1)[0].strip().decode("ascii", "replace")
        yield SourceItem(f"{item.url}#{number}", tune, ABC, item.metadata, len(tune))


def corpus_folder() -> Path:
    """Return the folder of scores in the music21 package.

    Raises ConfigError if it is not installed.
    """
    spec = importlib.util.find_spec("music21")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("kind: music21 needs music21: run `pip install -e '.[music]'`")
    return Path(spec.submodule_search_locations[0], "corpus")
