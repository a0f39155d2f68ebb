"""Prepare the tree of an HTML page: formulas, hidden text, controls and tables.

What these elements hold is decided here, by the HTML standard, so that every way of choosing the main content sees the same page.
"""

import re
from collections.abc import Iterator, Sequence, Set
from typing import cast

from resiliparse.parse.html import DocumentNode, ElementNode, HTMLTree, Node, NodeType

from provenlm.scraping.extraction import whitespace

SHADOW_ROOT = re.compile(r"<template\b[^<>]*\bshadowrootmode\b[^<>]*>", re.IGNORECASE)
XHTML = re.compile(r"\s*<\?xml\b|<html\b[^>]*\bxmlns\b", re.IGNORECASE)
MAX_PROLOG_CHARS = 2000
SELF_CLOSED = re.compile(r"<([a-zA-Z][\w:-]*)((?:\s[^<>]*?)?)\s*/>")
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"}
HEAD_END = re.compile(r"</head\b|<body\b", re.IGNORECASE)
NOSCRIPT = re.compile(r"<noscript\b[^<>]*>.*?</noscript\s*>", re.IGNORECASE | re.DOTALL)
FRAME_TAG = re.compile(r"</?(?:frameset|frame|noframes)\b[^<>]*>", re.IGNORECASE)
RESERVED = tuple(map(chr, range(0x10600, 0x10610)))  # signs that stand for other characters until the text is complete
TAG_NAME = re.compile(r"<([a-z][a-z0-9]*)")
WITHOUT_TEXT = (
    "script", "style", "template", "iframe", "object", "embed", "applet", "canvas", "audio", "video", "svg", "map", "link", "noframes",
    "noembed", "datalist", "input", "select", "textarea", "progress", "meter",
)  # fmt: skip
HIDDEN = '[hidden]:not([hidden="until-found"]), [style*="display" i], [style*="visibility" i]'
HIDDEN_STYLE = re.compile(
    r"(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse))(?:\s*!\s*important)?\s*(?:;|$)", re.IGNORECASE
)
DISCLOSED_CLASSES = re.compile(
    r"\b(?:tab|tabs|accordion|collapse|collapsible)(?:\b|[-_])", re.IGNORECASE
)  # shown by a click of the reader
TITLE_BUTTONS = ", ".join(f"{tag} button" for tag in ("h1", "h2", "h3", "h4", "h5", "h6", "summary", "dt", "[class*=accordion]"))
RENDERED_FORMULAS = (
    ".katex-html, mjx-math, .MathJax:not(mjx-container), .MathJax_Display, .MathJax_SVG, .MathJax_CHTML, .MathJax_Preview, .MJX_Assistive_MathML, "
    'img.mwe-math-fallback-image-inline, img.mwe-math-fallback-image-display, img[class*="mwe-math"]'
)
RENAMED = (  # content by the HTML standard that readers for articles take for controls or for the frame of the page
    ("menu", "menu", "ul"),
    ("dialog", "dialog", "div"),
    ("figure", "figure:has(pre), figure:has(table)", "div"),
    (
        "aside",
        ", ".join(f"aside.{name}" for name in ("note", "admonition", "callout", "tip", "warning", "info", "important")),
        "div",
    ),
    ("fieldset", "fieldset", "div"),
    ("legend", "legend", "p"),
    ("time", "p time, li time, td time", "span"),
    ("label", "p label", "span"),
    ("output", "p output", "span"),
    ("xmp", "xmp", "pre"),
    ("plaintext", "plaintext", "pre"),
)
WIDGET_NAMES = re.compile(r"search|log-?in|sign-?(?:in|up)|subscri|newsletter|comment|contact|vote|poll|share", re.IGNORECASE)
FORMULA_IMAGES = 'img.latex, img.tex, img.math, img.mathimage, img[src*="latex.php"], img[src*="latex.codecogs"]'
DISPLAY_STYLE = re.compile(r"^\{\\(?:display|text)style\s+(.*)\}$", re.DOTALL)
SUPERSCRIPTS = str.maketrans("0123456789+-−n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿ")
SUPERSCRIPT = re.compile(r"[+\-−]?[0-9]{1,4}|n")
BASE = re.compile(r"(?:[0-9)\]]|(?<![^\W_])[A-Za-z])$")  # a number, a bracket or one letter
GUTTERS = (
    "td.gutter, td.linenos, td.lineno, td.rouge-gutter, td.hljs-ln-numbers, td.blob-num, div.linenodiv, .line-numbers-rows, "
    "span.linenos, span.lineno"
)
BLOCKS_IN_CELL = "table, p, div, ul, ol, dl, pre, br, h1, h2, h3, h4, h5, h6, form, blockquote"
MAX_SPAN, MAX_SPANNED_CELLS = 100, 20_000  # of a cell, and of a page
MIN_TEXT_CHARS = 200  # a page with less text is read with its noscript elements
MIN_FORM_CHARS = 100  # of prose in a form that is content


def parse_page(markup: str) -> HTMLTree:
    """Parse a page by the HTML standard.

    A declared shadow root becomes a child of its host, and the text for browsers without frames the body of a page of frames.
    """
    if "shadowroot" in markup:
        markup = SHADOW_ROOT.sub("<div>", markup)  # an end tag without its template is ignored
    if XHTML.search(markup, 0, MAX_PROLOG_CHARS):
        markup = SELF_CLOSED.sub(_close_element, markup)
    head_end = HEAD_END.search(markup)
    if head_end is not None and "noscript" in markup[: head_end.start()].lower():
        markup = NOSCRIPT.sub("", markup[: head_end.start()]) + markup[head_end.start() :]
    if "<frameset" in markup or "<FRAMESET" in markup:
        markup = FRAME_TAG.sub("", markup)
    for sign in RESERVED:
        markup = markup.replace(sign, "\ufffd")
    return HTMLTree.parse(markup.replace("\0", "\ufffd"))


def _close_element(match: re.Match[str]) -> str:
    """Write the end tag of an XHTML element that closes itself."""
    return match[0] if match[1].lower() in VOID else f"<{match[1]}{match[2]}></{match[1]}>"


def select(node: ElementNode | DocumentNode | None, selector: str) -> list[ElementNode]:
    """Return the descendants that match a CSS selector, in page order.

    The iterator of the collection takes quadratic time, its method `values` does not.
    """
    return node.query_selector_all(selector).values() if node is not None else []


def text_of(node: Node) -> str:
    """Return the text in a node; "" if it has none."""
    return node.text or ""


def clean_page(tree: HTMLTree) -> None:
    """Remove what is not shown or has no text, and write formulas and tables as text."""
    body = tree.body
    if body is None:
        return
    tags = set(TAG_NAME.findall(body.html))
    _write_formulas(tree, body, tags)
    if selector := ", ".join(name for name in WITHOUT_TEXT if name in tags):
        _remove(body, selector)
    if "dialog" in tags:
        _remove(body, "dialog:not([open])")
    if "noscript" in tags:
        _read_noscript(tree, body)
    _remove_hidden(body)
    if "button" in tags:
        for button in select(body, TITLE_BUTTONS):
            rename_element(tree, button, "span")
        _remove(body, "button")
    for tag, selector, name in RENAMED:
        for element in select(body, selector) if tag in tags else ():
            rename_element(tree, element, name)
    for form in select(body, "form") if "form" in tags else ():
        names = " ".join(form.getattr(name) or "" for name in ("id", "class", "action", "role", "name"))
        if _prose_length(form) >= MIN_FORM_CHARS and not WIDGET_NAMES.search(names):
            rename_element(tree, form, "div")
    for element in select(body, GUTTERS):
        if not text_of(element).strip() or all(word.isdigit() for word in text_of(element).split()):
            element.remove()
    if "sup" in tags:
        _write_superscripts(tree, body)
    if "table" in tags:
        _fill_tables(tree, body)


def _element(tree: HTMLTree, name: str) -> ElementNode:
    return cast(ElementNode, tree.create_element(name))


def _text_node(tree: HTMLTree, text: str) -> Node:
    return cast(Node, tree.create_text_node(text))


def rename_element(tree: HTMLTree, element: ElementNode, name: str) -> None:
    """Give an element another tag name; its class and id stay."""
    new = _element(tree, name)
    for attribute in ("class", "id", "role"):
        if value := element.getattr(attribute):
            new.setattr(attribute, value)
    while (child := element.first_child) is not None:
        new.append_child(child)
    element.replace_with(new)


def _prose_length(form: ElementNode) -> int:
    """Return the number of characters in a form that are neither a label nor a link."""
    return len(text_of(form)) - sum(len(text_of(element)) for element in select(form, "label, a, legend"))


def _remove(body: ElementNode, selector: str) -> None:
    for element in select(body, selector):
        element.remove()


def _read_noscript(tree: HTMLTree, body: ElementNode) -> None:
    """Read noscript elements if the rest of the page is empty, and remove them otherwise."""
    elements = select(body, "noscript")
    texts = [len(text_of(element).strip()) for element in elements]
    is_content = bool(elements) and sum(texts) > MIN_TEXT_CHARS > len(text_of(body).strip()) - sum(texts)
    for element in elements:
        if is_content:
            rename_element(tree, element, "div")
        else:
            element.remove()


def _remove_hidden(body: ElementNode) -> None:
    """Remove hidden elements, except panels that a reader opens and wrappers of most of the page."""
    num_chars = -1
    for element in select(body, HIDDEN):
        if not element.hasattr("hidden") and not HIDDEN_STYLE.search(element.getattr("style") or ""):
            continue
        if element.getattr("role") == "tabpanel" or DISCLOSED_CLASSES.search(element.getattr("class") or ""):
            continue
        if num_chars < 0:
            num_chars = len(text_of(body))
        if 2 * len(text_of(element)) <= num_chars:
            element.remove()


def _write_formulas(tree: HTMLTree, body: ElementNode, tags: Set[str]) -> None:
    """Replace formulas by their TeX source, in the delimiters of LaTeX."""
    for element in select(body, 'script[type^="math/tex"]') if "script" in tags else ():
        _replace_by_tex(tree, element, text_of(element), "mode=display" in (element.getattr("type") or ""))
    for element in select(body, "math") if "math" in tags else ():
        annotation = element.query_selector('annotation[encoding="application/x-tex"], annotation[encoding="TeX"]')
        tex = text_of(annotation) if annotation is not None else element.getattr("alttext") or ""
        for other in select(element, "annotation, annotation-xml"):
            other.remove()
        display = element.getattr("display") == "block" or element.getattr("mode") == "display"
        wrapper = element.parent_element
        while wrapper is not None and wrapper.tag == "span" and "math" in (wrapper.getattr("class") or ""):
            display = display or "display" in (wrapper.getattr("class") or "")
            if HIDDEN_STYLE.search(wrapper.getattr("style") or ""):  # for readers of the screen only
                wrapper.delattr("style")
            wrapper = wrapper.parent_element
        if tex.strip():
            _replace_by_tex(tree, element, tex, display)
        else:
            element.replace_with(_text_node(tree, " ".join(text_of(element).split())))
    _remove(body, RENDERED_FORMULAS)
    for element in select(body, FORMULA_IMAGES) if "img" in tags else ():
        if tex := (element.getattr("alt") or "").strip():
            _replace_by_tex(tree, element, tex, display=False)


def _replace_by_tex(tree: HTMLTree, element: ElementNode, tex: str, display: bool) -> None:
    source = tex.strip().strip("$").strip()
    while match := DISPLAY_STYLE.match(source):
        source = match[1].strip()
    text = f"\\[{source}\\]" if display else f"\\({source}\\)"
    element.replace_with(_text_node(tree, text))


def _write_superscripts(tree: HTMLTree, body: ElementNode) -> None:
    """Write an exponent such as `10<sup>6</sup>` in superscript digits, so that it is no longer part of its base."""
    for element in select(body, "sup"):
        previous, text = element.prev, text_of(element).strip()
        base = (previous.value or "")[-2:] if previous is not None and previous.type == NodeType.TEXT else ""
        if element.first_element_child is None and SUPERSCRIPT.fullmatch(text) and BASE.search(base):
            element.replace_with(_text_node(tree, text.translate(SUPERSCRIPTS)))


def _fill_tables(tree: HTMLTree, body: ElementNode) -> None:
    """Give every cell of a data table a place: mark empty cells, and write a cell that spans others as empty ones.

    A table of layout has no header cells, and blocks in its cells or a single row or column. Cells do not span others in a page
    with too many of them.
    """
    cells = select(body, "td[colspan], th[colspan], td[rowspan], th[rowspan]")
    if sum(_span(cell, "colspan") * _span(cell, "rowspan") for cell in cells) > MAX_SPANNED_CELLS:
        for cell in cells:
            cell.delattr("colspan")
            cell.delattr("rowspan")
    for table in select(body, "table"):
        rows = [(row, [cell for cell in row.children.values() if cell.tag in ("td", "th")]) for row in _rows(table)]
        has_header = any(cell.tag == "th" for _, cells in rows for cell in cells)
        is_data = sum(len(cells) > 1 for _, cells in rows) > 1 and table.getattr("role") not in ("presentation", "none")
        if is_data and not table.query_selector("table, pre") and (has_header or not table.query_selector(BLOCKS_IN_CELL)):
            _fill_rows(tree, rows)


def _fill_rows(tree: HTMLTree, rows: Sequence[tuple[ElementNode, Sequence[ElementNode]]]) -> None:
    covered: dict[int, int] = {}  # column: number of following rows that a cell above covers
    for row, cells in rows:
        column = 0
        if not any(text_of(cell).strip() for cell in cells):
            continue
        for cell in cells:
            while covered.get(column, 0):
                covered[column] -= 1
                cell.before(_empty_cell(tree))
                column += 1
            if not text_of(cell).strip() and cell.query_selector("img") is None:
                cell.append_child(_text_node(tree, whitespace.EMPTY_CELL))
            columns, num_rows = _span(cell, "colspan"), _span(cell, "rowspan")
            cell.delattr("colspan")
            cell.delattr("rowspan")
            for offset in range(columns):
                covered[column + offset] = num_rows - 1
                if offset:
                    cell.after(_empty_cell(tree))
            column += columns
        while covered.get(column, 0):
            covered[column] -= 1
            row.append_child(_empty_cell(tree))
            column += 1


def _rows(table: ElementNode) -> Iterator[ElementNode]:
    for part in table.children.values():
        yield from (row for row in part.children.values() if row.tag == "tr") if part.tag in ("thead", "tbody", "tfoot") else ()


def _span(cell: ElementNode, attribute: str) -> int:
    value = cell.getattr(attribute) or "1"
    return max(1, min(int(value), MAX_SPAN)) if value.isdecimal() else 1


def _empty_cell(tree: HTMLTree) -> ElementNode:
    cell = _element(tree, "td")
    cell.append_child(_text_node(tree, whitespace.EMPTY_CELL))
    return cell
