"""Test that external text is displayed on a page, in Markdown and in HTML, and has no other effect."""

import html
import re

import pytest
from markdown_it import MarkdownIt

from provenlm.reporting import html as web
from provenlm.reporting import markdown

HOSTILE = [
    "a | b || c",
    "`code` ``more`` ```fence```",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "&lt;script&gt; &amp; &#60;b&#62;",
    "[click](javascript:alert(1)) [ref]: http://evil.example",
    "![x](http://evil.example/x.png)",
    "<http://evil.example> http://evil.example www.evil.example WWW.evil.example me@evil.example",
    "**bold** _it_ *it* ~~gone~~ # head > quote $math$",
    "\\| \\` \\\\| \\<b>",
    "| --- | --- |",
    "*[_`<!-- -->",
    "1. list - item + item",
    "Grüße, 世界, 🜁",
]
FULL = MarkdownIt("gfm-like", {"html": True, "linkify": False}).enable("table")  # a renderer that accepts raw HTML


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_text_in_a_table_cell_is_displayed_as_text(words):
    page = markdown.table(
        [markdown.escape("a"), markdown.escape("b")], [[markdown.escape(words), markdown.escape("end")]], [False, False]
    )
    rendered = FULL.render(page)
    cells = re.findall(r"<td>(.*?)</td>", rendered, re.DOTALL)
    assert [html.unescape(cell) for cell in cells] == [words, "end"]
    assert not re.search(r"<(?!/?(table|thead|tbody|tr|th|td)\b)", rendered)


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_text_is_displayed_as_text_on_the_html_page(words):
    page = web.render_html(f"# {markdown.escape('t')}\n\nbegin {markdown.escape(words)} end\n", words, {})
    (shown,) = re.findall(r"<p>begin (.*) end</p>", page)
    assert html.unescape(shown) == words
    assert "<script" not in page and "<img" not in page


def test_a_bare_url_has_no_form_that_a_host_turns_into_a_link():
    escaped = markdown.escape("http://a.example https://b.example www.c.example Www.d.example me@e.example")
    assert "://" not in escaped and "www." not in escaped.lower() and "@" not in escaped


@pytest.mark.parametrize(
    "letter", ["\x00", "\x07", "\x1b", "\x7f", "\u200b", "\u202e", "\u2066", "\u2028", "\ufeff", "\ud800", "\r"]
)
def test_control_and_direction_characters_are_replaced(letter):
    assert markdown.escape(f"a{letter}b") == "a\N{REPLACEMENT CHARACTER}b"


def test_line_breaks_are_visible_and_do_not_break_a_table():
    assert markdown.escape("a\nb\tc") == "a⏎b c"


def test_long_text_is_cut_and_marked():
    assert markdown.escape("x" * 401) == "x" * 400 + "…"
    assert markdown.escape("x" * 400) == "x" * 400


def test_the_title_of_a_link_cannot_end_it():
    page = markdown.link(markdown.escape("v"), "a b.json", 'x" onclick="alert(1)\n\n<b> \\" | &quot;')
    rendered = MarkdownIt("commonmark", {"html": True}).render(page)
    assert rendered.count("<a ") == 1 and " onclick=" not in re.sub(r'"[^"]*"', "", rendered)
    assert 'href="a%20b.json"' in rendered


def test_the_text_of_a_link_cannot_end_it():
    rendered = MarkdownIt().render(markdown.link(markdown.escape("](http://evil.example)"), "a.json", ""))
    assert re.findall(r'href="([^"]*)"', rendered) == ["a.json"]


def test_a_name_that_no_code_span_can_hold_is_escaped_text():
    assert markdown.code("a`b") == "a\\`b"
    assert markdown.code("a.b/c") == "`a.b/c`"
    assert markdown.code("a|b") == "a\\|b"


def test_a_column_of_numbers_is_right_aligned():
    assert markdown.table([markdown.escape("a")], [[markdown.escape("b")]], [True]) == "| a |\n| ---: |\n| b |"


@pytest.mark.parametrize("words", ["Return the ", " x", "def f(", "*", "a"])
def test_bold_text_is_bold_with_any_first_or_last_character(words):
    rendered = FULL.render(f"key {markdown.bold(markdown.escape(words))} · next")
    assert html.unescape(rendered).replace("\xa0", " ") == f"<p>key <strong>{words}</strong> · next</p>\n"
