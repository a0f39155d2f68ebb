"""Extract text from responses: HTML, plain text, Markdown and feeds."""

from importlib import metadata
from pathlib import Path

from provenlm.core import hashing
from provenlm.scraping.crawl import urls
from provenlm.scraping.extraction import (
    charset,
    documents,
    html,
    links,
    main_content,
    page_cleaning,
    page_metadata,
    text_layout,
    whitespace,
)
from provenlm.scraping.extraction.extractor import ExtractedDocument, Extractor
from provenlm.scraping.sources import feed


def extract_text(body: bytes, content_type: str, url: str) -> ExtractedDocument:
    """Extract the main text of HTML, plain text and Markdown, or the links of a feed.

    The text is UTF-8; its Unicode normalization form is kept.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in feed.MEDIA_TYPES:
        return ExtractedDocument(b"", media_type, {}, tuple(dict.fromkeys(feed.feed_links(body, url))), "listing")
    if media_type == "application/pdf":
        document = documents.read_pdf(body)
        return ExtractedDocument(b"", media_type, {}, (), document) if isinstance(document, str) else document
    text, _ = charset.decode_body(body, content_type)
    if media_type not in HTML_MEDIA_TYPES:
        return ExtractedDocument(text.encode("utf-8", "replace"), media_type, {}, ())
    parsed = html.read_html(text, url)
    if parsed.refresh_url:
        return ExtractedDocument(b"", "", {}, (parsed.refresh_url,), "redirected")
    about_page = parsed.metadata
    fields = (
        ("title", about_page.title),
        ("lang", about_page.language),
        ("date", about_page.date),
        ("license", about_page.license_url),
    )
    metadata_fields = {key: value for key, value in fields if value}
    return ExtractedDocument(
        parsed.text.encode("utf-8", "replace"),
        "text/plain",
        metadata_fields,
        parsed.links,
        "" if parsed.indexable else "noindex",
        about_page.canonical_url,
    )


def _extractor_version() -> str:
    """Hash the code and the parser versions that determine the extracted document."""
    modules = [
        Path(module.__file__ or "")
        for module in (
            page_metadata,
            charset,
            main_content,
            page_cleaning,
            text_layout,
            html,
            links,
            documents,
            feed,
            whitespace,
            urls,
        )
    ]
    code_hash = hashing.sha256_files([*modules, Path(__file__)], Path(__file__).parents[1])
    return hashing.sha256_json(
        [code_hash, *(metadata.version(name) for name in ("beautifulsoup4", "lxml", "resiliparse", "trafilatura"))]
    )


TEXT_MEDIA_TYPES = ("text/plain", "text/markdown", "text/x-markdown", "text/x-rst", "text/x-asciidoc", "text/x-tex")
HTML_MEDIA_TYPES = ("text/html", "application/xhtml+xml")
TEXT_EXTRACTOR = Extractor(
    (*HTML_MEDIA_TYPES, *TEXT_MEDIA_TYPES, *feed.MEDIA_TYPES, "application/pdf"), extract_text, _extractor_version()
)
