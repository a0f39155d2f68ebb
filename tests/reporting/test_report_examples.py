"""Test the section with examples: embedded files, blind pairs and their key."""

import base64
import re

import pytest

from provenlm.core.examples import Example
from provenlm.reporting.examples import RecipeExamples, blind_pairs, examples_html
from provenlm.reporting.html import render_html
from provenlm.reporting.render import render_report

SVG, WAV, MIDI = b'<svg xmlns="http://www.w3.org/2000/svg"/>', b"RIFF1234WAVE", b"MThd\0"
FILES = {".mid": MIDI, ".svg": SVG, ".wav": WAV}
SAMPLE = Example("sample-1", "Samples", "Sample <1>", True, 0, FILES)
PAIRS = [
    Example(f"pair-{number}-{kind}", "Pairs", f"{kind} {number}", kind == "generated", number, {".mid": f"{kind}{number}".encode()})
    for number in range(1, 9)
    for kind in ("generated", "real")
]
RECIPE = RecipeExamples("music/toy", "samples/music/toy", [SAMPLE, *PAIRS])


@pytest.fixture
def files(make_audit_file, make_missing_file):
    audit_files = [make_audit_file("music/toy", "validate", loss=1.0)]
    return render_report("proof", "A proof", audit_files, make_missing_file("proof", "report"), {}, "w", None, [RECIPE]).files


def test_pictures_audio_and_files_are_embedded():
    page = examples_html([RecipeExamples("toy", "samples/toy", [SAMPLE])])
    assert '<audio controls preload="metadata" src="data:audio/wav;base64,' + base64.b64encode(WAV).decode() in page
    assert '<img alt="Sample &lt;1&gt;" src="data:image/svg+xml,%3Csvg' in page
    assert '<a download="sample-1.mid" href="data:audio/midi;base64,' + base64.b64encode(MIDI).decode() in page
    assert "<details>" not in page


def test_text_is_shown_as_text():
    example = Example("a", "Samples", "a", True, 0, {".txt": b"<b>x</b>\xff"})
    assert "<pre>&lt;b&gt;x&lt;/b&gt;\ufffd</pre>" in examples_html([RecipeExamples("toy", "", [example])])


def test_a_blind_pair_says_only_in_the_key_which_side_is_generated():
    page, _, key = examples_html([RECIPE]).partition("<details>")
    assert "generated 1" not in page and "real 1" not in page and "pair-1-generated" not in page
    lines = re.findall(r"<li>music/toy, pair (\d): A is (\w+) \((\w+) \d\); B is (\w+) \((\w+) \d\)</li>", key)
    assert [line[0] for line in lines] == [str(number) for number in range(1, 9)]
    assert all({first, second} == {"generated", "real"} and first == title for _, first, title, second, _ in lines)


def test_the_side_of_a_pair_depends_on_its_files_and_not_on_the_order():
    pairs = blind_pairs(PAIRS)
    assert pairs == blind_pairs(PAIRS[::-1])
    assert {first.is_generated for first, _ in pairs} == {True, False}


def test_the_report_has_a_section_with_examples(files):
    markdown, page = files["proof.md"].decode(), files["proof.html"].decode()
    assert "## Examples" in markdown and "[`samples/music/toy`](samples/music/toy)" in markdown
    section = page[page.index('id="examples"') : page.index('id="musictoy"')]
    assert "<audio controls" in section and "Key to the blind pairs" in section
    assert page.count("<audio") == 1


def test_the_page_with_examples_loads_nothing_and_allows_embedded_audio(files):
    page = files["proof.html"].decode()
    assert "default-src 'none'" in page and "media-src data:" in page and "<script" not in page
    assert not [address for address in re.findall(r'src="([^"]*)"', page) if not address.startswith("data:")]


def test_a_report_without_examples_has_no_section(make_audit_file, make_missing_file):
    own_audit = make_missing_file("proof", "report")
    files = render_report("proof", "t", [make_audit_file("toy", "validate", loss=1.0)], own_audit, {}, "w", None).files
    assert "Examples" not in files["proof.md"].decode() and 'class="examples"' not in files["proof.html"].decode()


def test_a_section_is_added_before_the_next_heading_of_its_depth():
    page = render_html("# T\n\n## A\n\n### B\n\nb\n\n## C\n", "T", {}, {"a": "<hr>"})
    assert page.index("<p>b</p>") < page.index("<hr>") < page.index('id="c"')
    assert render_html("# T\n\n## A\n\na\n", "T", {}, {"a": "<hr>"}).index("<hr>") > 0
    with pytest.raises(ValueError, match="anchor must be that of a heading, got 'x'"):
        render_html("# T\n", "T", {}, {"x": ""})
