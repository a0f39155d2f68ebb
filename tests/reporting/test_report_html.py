"""Test the HTML page: one file, no network, valid anchors, colors for status words only."""

import re
from urllib.parse import unquote_to_bytes

from provenlm.reporting import html

SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0"/></svg>'
MARKDOWN = """# Title

**FAIL** and **PASSED**

See [there](#toytrain).

## toy/train

![a curve](x_files/a.svg)

| a | b |
| --- | ---: |
| **NOT RUN** | 1 |
"""


def test_a_plot_is_embedded_in_the_page():
    page = html.render_html(MARKDOWN, "Title", {"x_files/a.svg": SVG})
    (address,) = re.findall(r'<img src="([^"]*)"', page)
    assert address.startswith("data:image/svg+xml,")
    assert unquote_to_bytes(address.partition(",")[2]) == SVG


def test_nothing_is_loaded_and_no_script_may_run():
    page = html.render_html(MARKDOWN, "Title", {"x_files/a.svg": SVG})
    assert "default-src 'none'" in page
    assert not [address for address in re.findall(r'(?:src|href)="([^"]*)"', page) if not address.startswith(("data:", "#"))]
    assert "<script" not in page and "@import" not in page and "url(" not in page


def test_links_into_the_page_resolve():
    page = html.render_html(MARKDOWN, "Title", {"x_files/a.svg": SVG})
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(re.findall(r'id="([^"]*)"', page))


def test_only_status_words_get_the_color_of_a_status():
    page = html.render_html(MARKDOWN, "Title", {"x_files/a.svg": SVG})
    assert re.findall(r'<strong class="status (\w+)">', page) == ["fail", "not_run"]
    assert "<strong>PASSED</strong>" in page


def test_the_page_title_is_escaped():
    assert "<title>&lt;b&gt; &amp; $title</title>" in html.render_html("# x\n", "<b> & $title", {})


def test_a_long_name_may_break_after_a_dot_or_an_underscore():
    page = html.render_html("# Title\n\n`a.b_c` `<b>.x`\n", "Title", {})
    assert "<code>a.<wbr>b_<wbr>c</code>" in page and "<code>&lt;b&gt;.<wbr>x</code>" in page
