import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from provenlm.scraping.extraction import bounded_worker, extractor
from provenlm.scraping.extraction.extractor import ExtractedDocument, Extractor
from provenlm.scraping.extraction.html import read_html
from provenlm.scraping.extraction.text_extractor import TEXT_EXTRACTOR

PROSE = "The ferry to the island leaves at noon, if the wind allows it, and the captain sells the tickets himself on the pier. " * 2
PROSE = PROSE.strip()
SENTENCES = [
    f"Paragraph {n} tells how the ferry crossed the strait on day {n}, slowly and late, with {n} sheep on deck." for n in range(24)
]
NAVIGATION = "<nav><ul>" + "".join(f"<li><a href='/{n}'>other page {n}</a></li>" for n in range(40)) + "</ul></nav>"


def text_of(body: str, head: str = "") -> str:
    return read_html(f"<html><head>{head}</head><body>{body}</body></html>", "http://h/d/p.html").text


def text_in_article(part: str) -> str:
    """Return the text that `part` becomes in the middle of a long article with navigation, which trafilatura reads."""
    before, after = ("".join(f"<p>{sentence}</p>" for sentence in half) for half in (SENTENCES[:12], SENTENCES[12:]))
    head = '<meta property="og:type" content="article">'
    text = text_of(f"{NAVIGATION}<main><h1>A title</h1>{before}{part}{after}</main><footer>All rights reserved</footer>", head)
    start, end = "\n\n".join(["A title", *SENTENCES[:12]]), "\n\n".join(SENTENCES[12:])
    assert text.startswith(start)
    assert text.endswith(end)
    return text[len(start) : -len(end)].strip("\n")


def text_in_documentation(part: str) -> str:
    """Return the text that `part` becomes in a page of Sphinx, which our own rules read."""
    body = f"{NAVIGATION}<div role='main'><p>{PROSE}</p>{part}<p>{PROSE}</p></div>"
    return text_of(body, '<meta name="generator" content="Sphinx 8">').removeprefix(PROSE).removesuffix(PROSE).strip("\n")


READERS = pytest.mark.parametrize("read", [text_in_article, text_in_documentation, text_of])
FORMULA = '<math{}><semantics><mi>a</mi><annotation encoding="application/x-tex">a < \\beta</annotation></semantics></math>'


def test_whitespace_collapses_and_blocks_are_separated() -> None:
    assert text_of("<h1>A  title</h1>\n<p>one\n two <b>three</b>,\nfour</p><p>five</p>") == "A title\n\none two three, four\n\nfive"


CODE = "def f(x):\n    if x:\n\treturn   1\n\n\n    return 2  "


def test_preformatted_text_keeps_whitespace() -> None:
    assert text_of(f"<p>see</p><pre>\n{CODE}</pre><p>end</p>") == f"see\n\n{CODE}\n\nend"


def test_highlighted_code_keeps_whitespace() -> None:
    marked = '<div class="highlight"><pre><span></span><span class="k">def</span> <span class="nf">f</span>():\n    <span>pass</span>\n</pre></div>'
    assert text_of(marked) == "def f():\n    pass"


def test_a_white_space_style_keeps_whitespace() -> None:
    assert text_of('<div style="white-space: pre-wrap">a\n   b</div>') == "a\n   b"


def test_line_numbers_of_code_are_removed() -> None:
    table = '<table><tr><td class="linenos"><pre>1\n2</pre></td><td class="code"><pre>a\n  b</pre></td></tr></table>'
    assert text_of(table) == "a\n  b"


def test_no_break_spaces_and_line_breaks_keep_the_layout_of_pydoc() -> None:
    assert text_of("<p><span>if&nbsp;x:<br>\n&nbsp;&nbsp;&nbsp;&nbsp;y<br>\n&nbsp;<br>\nz</span></p>") == "if x:\n    y\n\nz"


def test_inline_code_keeps_runs_of_spaces() -> None:
    assert text_of("<p>write <code>a  b</code> so</p>") == "write a  b so"


def test_lists_and_definitions_take_a_line_each() -> None:
    assert text_of("<ul><li>a</li><li>b <p>c</p></li></ul><dl><dt>d</dt><dd>e</dd></dl>") == "- a\n- b\n\nc\n\nd\ne"


def test_table_cells_are_separated_by_bars() -> None:
    assert text_of("<table><tr><td>a<br>b</td><td>c</td></tr><tr><td>1</td><td>2</td></tr></table>") == "a\nb | c\n1 | 2"


@pytest.mark.parametrize(
    "clutter",
    [
        "<nav>x</nav>", "<script>x</script>", "<style>x</style>", "<footer>x</footer>", "<form><input value=x></form>", "<noscript>x</noscript>",
        '<div role="navigation">x</div>', '<div class="sphinxsidebar wide">x</div>', "<div hidden>x</div>", "<!-- x -->",
        '<p aria-hidden="true">x</p>', "<svg><text>x</text></svg>", "<template>x</template>", '<a class="headerlink">x</a>',
        '<b style="color: red; display:NONE">x</b>',
        '<div style="visibility: hidden !important">x</div>', "<button>x</button>", "<dialog>x</dialog>", '<div role="tablist">x</div>',
        "<div hidden><p hidden>x<script>y</script></p></div>",
    ],
)  # fmt: skip
def test_boilerplate_is_removed(clutter: str) -> None:
    assert text_of(f"<p>a</p>{clutter}<p>b</p>") == "a\n\nb"


@pytest.mark.parametrize("tag", ["<main>", "<article>", '<div role="main">', '<div class="body">', '<div id="content">'])
def test_the_main_element_is_the_content(tag: str) -> None:
    end = f"</{tag[1:].split()[0].rstrip('>')}>"
    assert text_of(f"<div>menu</div>{tag}<header><h1>t</h1></header><p>a long text</p>{end}<div>more</div>") == "t\n\na long text"


@pytest.mark.parametrize("tag", ["article", "main"])
def test_a_main_element_that_holds_little_of_the_page_is_not_trusted(tag: str) -> None:
    assert text_of(f"<div><p>{PROSE}</p></div><{tag}><p>thanks</p></{tag}>") == f"{PROSE}\n\nthanks"


def test_an_empty_main_element_hides_no_page() -> None:
    assert text_of("<main></main><p>a</p>") == "a"


def test_several_articles_are_not_a_main_element() -> None:
    assert text_of("<article>a</article><article>b</article>") == "a\n\nb"


def test_title_and_language_are_read() -> None:
    page = read_html('<html lang="de"><head><title> Ein\n Titel </title></head><body>x</body></html>', "http://h/")
    assert (page.metadata.title, page.metadata.language, page.text) == ("Ein Titel", "de", "x")


def test_links_are_normalized_and_unique() -> None:
    body = '<a href="a">1</a><a href="./a#x">2</a><a href="/b?q">3</a><a href="mailto:a@b">4</a><a href="c" rel="nofollow">5</a><a name="d">6</a>'
    assert read_html(body, "http://h/d/p.html").links == ("http://h/d/a", "http://h/b?q")


def test_links_are_resolved_against_the_base_element() -> None:
    assert read_html('<base href="/e/"><a href="a">1</a>', "http://h/d/p.html").links == ("http://h/e/a",)


def test_robots_meta_forbids_indexing_and_following() -> None:
    page = read_html('<meta name="Robots" content="noindex, NoFollow"><a href="a">1</a>', "http://h/")
    assert (page.indexable, page.followable, page.links) == (False, False, ())


def test_deep_nesting_is_harmless() -> None:
    assert "x" in text_of("<div>" * 20_000 + "x")


def test_an_empty_page_has_no_text() -> None:
    assert text_of("") == ""
    assert read_html("", "http://h/").text == ""


def test_a_container_with_a_boilerplate_name_is_removed() -> None:
    body = '<div id="topbar"><a href="/">Home</a></div><p>a long enough text</p><div class="site-footer">end</div><ul class="menu"><li>x</ul>'
    assert text_of(body) == "a long enough text"


def test_a_wrapper_named_after_its_sidebar_is_kept() -> None:
    assert text_of('<div class="with-sidebar"><p>all of the text</p></div><p>x</p>') == "all of the text\n\nx"
    assert text_of('<div class="page-sidebar-left"><p>a</p></div><p>longer than that</p>') == "a\n\nlonger than that"


def test_text_after_a_comment_or_a_removed_element_is_kept() -> None:
    assert text_of("<p>a<!-- x -->b<script>x</script>c<?x y?>d</p>") == "abcd"
    assert text_of("<pre>a<!-- x -->\n  b<script>x</script>\n  c</pre>") == "a\n  b\n  c"


def test_text_after_the_closing_html_tag_is_kept() -> None:
    page = read_html("<html><body><p>a</p></body></html>\n<p>b</p><a href='/x'>c</a></BODY ></html>d", "http://h/")
    assert (page.text, page.links) == ("a\n\nb\n\ncd", ("http://h/x",))
    assert read_html("<html><head><title>t</title></head></html><body><p>a</body>", "http://h/").text == "a"
    assert read_html("<div>" * 3000 + "deep</body></html><a href='/x'>behind</a>", "http://h/").links == ("http://h/x",)


def test_a_paragraph_in_a_list_item_begins_after_the_dash() -> None:
    assert text_of("<ul>\n<li> <p>a</p><p>b</p></li><li><ul><li>c</ul></li></ul>") == "- a\n\nb\n\n-\n- c"


def test_escaped_markup_and_control_marks_become_text() -> None:
    assert (
        text_of('<p title="a>b">&lt;p&gt; &amp;amp; 1 &lt; 2</p><pre>&amp;lt;\n\t&lt;x></pre>') == "<p> &amp; 1 < 2\n\n&lt;\n\t<x>"
    )
    assert text_of("<p>a\x01b\x0fc&#5;d</p>") == "a\ufffdb\ufffdc\ufffdd"


def test_nested_code_and_line_breaks_keep_whitespace() -> None:
    assert text_of("<p><code>a<br>\n  b  <var>c  d</var>  e</code>  f  g</p>") == "a\n  b  c  d  e f g"
    assert text_of("<pre><code>a\n  b<br>  <pre> c</pre></code></pre>d") == "a\n  b\n  \n\n c\n\nd"


def test_many_line_breaks_and_very_long_lines_are_handled() -> None:
    assert text_of("a" + "<br>" * 30_000 + "b") == "a\n\nb"
    assert text_of("<p>" + "word " * 200_000).count("word") == 200_000
    assert text_of('<div style="white-space:pre">' * 1500 + "a  b").endswith("a  b")


def test_a_sidebar_of_links_is_removed_and_one_of_prose_kept() -> None:
    prose = (
        "A box of DocBook or of Sphinx goes further than the text does, and belongs to it all the same, as its authors meant it to."
    )
    links = "".join(f'<li><a href="/{n}">the page of the number {n}</a></li>' for n in range(9))
    assert text_of(f'<p>a</p><div class="sidebar"><p>{prose}</p></div><p>b</p>') == f"a\n\n{prose}\n\nb"
    assert text_of(f'<main><p>a</p><div class="sidebar"><ul>{links}</ul></div><p>b</p></main>') == "a\n\nb"


def test_nested_sidebars_take_linear_time() -> None:
    assert text_of("<div class='sidebar'>" * 1500 + "a word " * 20_000).count("word") == 20_000


def test_the_id_of_a_section_is_no_boilerplate_name() -> None:
    body = '<p>a long text of the page</p><div class="section" id="a-widget"><p>b</p></div><section id="related"><p>c</p></section>'
    assert text_of(body + '<section class="related"><p>d</p></section>') == "a long text of the page\n\nb\n\nc"


@READERS
@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        (f"<p>so {FORMULA.format('')} is.</p>", r"so \(a < \beta\) is."),
        (f"<p>so {FORMULA.format(' display=block')} is.</p>", r"so \[a < \beta\] is."),
        ('<p>so <math alttext="{\\displaystyle x^{2}}"><mi>x</mi></math> is.</p>', r"so \(x^{2}\) is."),
        ("<p>so <math><mi>y</mi></math> is.</p>", "so y is."),
        (f'<p>so <span class="katex"><span>{FORMULA.format("")}</span><span class="katex-html" aria-hidden="true">a</span></span> is.</p>',
         r"so \(a < \beta\) is."),
        (f'<p>so <span class="mwe-math-element"><span class="mwe-math-mathml-inline" style="display: none">{FORMULA.format("")}</span>'
         '<img class="mwe-math-fallback-image-inline" alt="a"></span> is.</p>', r"so \(a < \beta\) is."),
        ('<p>so <script type="math/tex">a < 1</script> is.</p>', r"so \(a < 1\) is."),
        ('<p>so <script type="math/tex; mode=display">a < 1</script> is.</p>', r"so \[a < 1\] is."),
        ('<p>so <img class="latex" alt="\\pi" src="x"> is.</p>', r"so \(\pi\) is."),
        ('<p>so <mjx-container class="MathJax"><mjx-math>G</mjx-math><mjx-assistive-mml><math><mi>y</mi></math></mjx-assistive-mml>'
         "</mjx-container> is.</p>", "so y is."),
        ("<p>about 10<sup>12</sup> of x<sup>2</sup>y and n<sup>-1</sup></p>", "about 10¹² of x²y and n⁻¹"),
        ('<p>a note<sup>3</sup> and H<sub>2</sub>O, 7<sup><a href="#n">4</a></sup></p>', "a note3 and H2O, 74"),
    ],
)  # fmt: skip
def test_formulas_become_tex(read: Callable[[str], str], markup: str, expected: str) -> None:
    assert read(markup) == expected


@READERS
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("<tr><th>a</th><th>b</th><th>c</th></tr><tr><td>1</td><td></td><td>3</td></tr>", "a | b | c\n1 |  | 3"),
        ("<tr><td>a</td><td>b</td></tr><tr><td></td><td>2</td></tr><tr><td>3</td><td> </td></tr>", "a | b\n | 2\n3 | "),
        ("<tr><th rowspan=2>name</th><th colspan=2>size</th></tr><tr><th>w</th><th>h</th></tr><tr><td>cup</td><td></td><td>9</td></tr>",
         "name | size | \n | w | h\ncup |  | 9"),
        ("<thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>x|y</td><td>z</td></tr></tbody>", "a | b\nx|y | z"),
    ],
)  # fmt: skip
def test_every_cell_of_a_table_keeps_its_place(read: Callable[[str], str], rows: str, expected: str) -> None:
    assert read(f"<table>{rows}</table>") == expected


@READERS
@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        (f"<form><p>{PROSE}</p><input name=a><button>go</button></form>", PROSE),
        (f'<div role="alert"><p>{PROSE}</p></div>', PROSE),
        (f"<h2><button>How late is it?</button></h2><div class=collapse hidden><p>{PROSE}</p></div>", f"How late is it?\n\n{PROSE}"),
        (f"<details><summary>More</summary><p>{PROSE}</p></details>", f"More\n\n{PROSE}"),
        ("<menu><li>cast off</li><li>set sail</li></menu>", "- cast off\n- set sail"),
        (f"<dialog open><p>{PROSE}</p></dialog>", PROSE),
        (f"<fieldset><p>{PROSE}</p></fieldset>", PROSE),
        ("<xmp>if <b> then\n  &amp; go</xmp>", "if <b> then\n  &amp; go"),
        ('<p>on <time datetime="2026-01-02">2 January</time> it <output>rained</output> hard.</p>', "on 2 January it rained hard."),
        (f'<div role="tabpanel"><p>{PROSE}</p></div><div role="tabpanel" hidden><p>it was late</p></div>', f"{PROSE}\n\nit was late"),
        ("<p>inter&shy;national and می\u200cخواهم \U0001f468\u200d\U0001f469 &amp;lt;</p>",
         "international and می\u200cخواهم \U0001f468\u200d\U0001f469 &lt;"),
        (f"<p>{PROSE}</p><p hidden>cheap words</p><p style='display:none'>cheap words</p>", PROSE),
    ],
)  # fmt: skip
def test_what_a_page_shows_is_content(read: Callable[[str], str], markup: str, expected: str) -> None:
    assert read(markup) == expected


@READERS
@pytest.mark.parametrize(
    "markup",
    [
        "<pre>{}</pre>", "<pre><code class=x>{}</code></pre>", "<figure><pre>{}</pre></figure>", "<pre><span></span><b>{}</b>\n</pre>",
        "<table><tr><td class=gutter><pre>1\n2</pre></td><td class=code><pre>{}</pre></td></tr></table>",
        "<div class=highlight><pre>{}</pre></div>",
    ],
)  # fmt: skip
def test_code_keeps_every_space(read: Callable[[str], str], markup: str) -> None:
    code = 'def f(x):\n    if x &lt; 2  and y:\n\treturn   1\n\n\n    return "- a | b"'
    assert read(markup.replace("{}", code)) == code.replace("&lt;", "<")


@pytest.mark.parametrize("tag", ["main", "article", "section", "header", "hgroup", "figure", "details", "form", "search", "my-app"])
def test_optional_tags_may_be_left_out(tag: str) -> None:
    assert PROSE in read_html(f"<!doctype html><html lang=en><title>T</title><{tag}><p>{PROSE}</p></{tag}>", "http://h/").text


@pytest.mark.parametrize(
    "page",
    [
        f"<div id=root></div><noscript><p>{PROSE}</p></noscript>",
        f"<my-page><template shadowrootmode=open><p>{PROSE}</p></template></my-page>",
        f'<form id="aspnetForm"><input type="hidden" value="x"><div><p>{PROSE}</p></div></form>',
        f"<head><noscript><div>enable scripts</div></noscript></head><p>{PROSE}</p>",
        f"<frameset cols='20%'><frame src=a><noframes><body><p>{PROSE}</p></body></noframes></frameset>",
        f'<?xml version="1.0"?><html xmlns="x"><head><script src="a.js"/><title/></head><body><a id="x"/><p>{PROSE}</p></body></html>',
        f"<body style='visibility:hidden'><div style='display: none'><p>{PROSE}</p></div><p>short</p></body>",
    ],
)
def test_the_only_text_of_a_page_is_read(page: str) -> None:
    assert read_html(page, "http://h/").text.removesuffix("\n\nshort") == PROSE


HOSTILE_PAGES = [  # each is quadratic in a parser, or deep
    b"<p " + b" ".join(b"a%d=1" % n for n in range(60_000)) + b">x",
    b"<noscript>x" * 60_000,
]


@pytest.mark.parametrize("page", HOSTILE_PAGES)
def test_a_page_that_takes_quadratic_time_ends_at_the_limit(page: bytes) -> None:
    assert replace(TEXT_EXTRACTOR, max_seconds=0.1).extract(page, "text/html", "http://h/").reason == "time-limit"


def test_a_large_page_is_read_by_a_worker_as_in_the_process() -> None:
    body = f"{NAVIGATION}<p>{PROSE}</p>".encode() * 50
    assert len(body) > extractor.MAX_INLINE_BYTES
    assert TEXT_EXTRACTOR.extract(body, "text/html", "http://h/") == TEXT_EXTRACTOR.extract_content(body, "text/html", "http://h/")


def test_a_crash_of_a_worker_is_an_unreadable_page() -> None:
    """A signal, as after an overflow of the stack in a parser, ends the worker and nothing else."""
    with pytest.raises(bounded_worker.WorkerCrashError):
        bounded_worker.call_bounded(os.abort, (), 10.0)
    crashing = Extractor(("text/html",), crash, "")
    assert crashing.extract(b"x" * 70_000, "text/html", "http://h/").reason == "unreadable"
    assert bounded_worker.call_bounded(len, ("abc",), 10.0) == 3


def crash(body: bytes, content_type: str, url: str) -> ExtractedDocument:
    os.abort()


def test_an_interrupted_crawl_ends_the_calls_of_its_threads() -> None:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(bounded_worker.call_bounded, time.sleep, (60.0,), 60.0)
        while not future.done():
            bounded_worker.end_running_calls()
            time.sleep(0.01)
    assert isinstance(future.exception(), bounded_worker.WorkerCrashError)


def test_an_error_of_a_call_is_raised_by_the_caller() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        bounded_worker.call_bounded(int, ("x",), 10.0)
