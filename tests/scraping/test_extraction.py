import pytest

from provenlm.scraping.extraction.html import read_html


def text_of(body: str, head: str = "") -> str:
    return read_html(f"<html><head>{head}</head><body>{body}</body></html>", "http://h/d/p.html").text


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
    assert text_of("<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td></td><td>2</td></tr></table>") == "a | b\n1 | 2"


@pytest.mark.parametrize(
    "clutter",
    [
        "<nav>x</nav>", "<script>x</script>", "<style>x</style>", "<footer>x</footer>", "<form>x<input></form>", "<noscript>x</noscript>",
        '<div role="navigation">x</div>', '<div class="sphinxsidebar wide">x</div>', "<div hidden>x</div>", "<!-- x -->",
        '<p aria-hidden="true">x</p>', "<svg><text>x</text></svg>", "<template>x</template>", '<a class="headerlink">x</a>',
    ],
)  # fmt: skip
def test_boilerplate_is_removed(clutter: str) -> None:
    assert text_of(f"<p>a</p>{clutter}<p>b</p>") == "a\n\nb"


@pytest.mark.parametrize("tag", ["<main>", "<article>", '<div role="main">', '<div class="body">', '<div id="content">'])
def test_the_main_element_is_the_content(tag: str) -> None:
    end = f"</{tag[1:].split()[0].rstrip('>')}>"
    assert text_of(f"<div>menu</div>{tag}<header><h1>t</h1></header><p>a</p>{end}<div>more</div>") == "t\n\na"


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
    body = '<div id="topbar"><a href="/">Home</a></div><p>a long enough text</p><div class="site-footer">end</div><ul class="leftMenu"><li>x</ul>'
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
    assert text_of("a" + "<br>" * 100_000 + "b") == "a\n\nb"
    assert text_of("<p>" + "word " * 1_000_000).count("word") == 1_000_000
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
