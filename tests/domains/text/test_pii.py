import random
import re
import string
import time
from pathlib import Path

import pytest

from provenlm.domains.text.filter import pii

RANDOM = random.Random(5)


def random_letters(count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(RANDOM.choices(alphabet, k=count))


UPPER = string.ascii_uppercase + "234567"
SAMPLES = {
    "private_key": f"-----BEGIN RSA PRIVATE KEY-----\n{random_letters(64)}\n{random_letters(64)}\n-----END RSA PRIVATE KEY-----",
    "aws": "AKIA" + random_letters(16, UPPER),
    "github": "ghp_" + random_letters(36),
    "gitlab": "glpat-" + random_letters(20),
    "slack": f"xoxb-{random_letters(12, string.digits)}-{random_letters(24)}",
    "google": "AIza" + random_letters(35),
    "hugging_face": "hf_" + random_letters(34, string.ascii_letters),
    "openai": "sk-proj-" + "1" + random_letters(47),
    "stripe": "sk_live_" + random_letters(24),
    "npm": "npm_" + random_letters(36),
    "pypi": "pypi-AgE" + random_letters(80),
    "jwt": f"eyJ{random_letters(20)}.eyJ{random_letters(40)}.{random_letters(43)}",
    "email": "jane.doe+list@mail.some-host.co.uk",
    "ip": "93.184.216.34",
    "phone": "+49 30 901820 44",
}
HARMLESS = [
    "user@example.com and root@localhost, see a@b",
    "the decorator @functools.cache, and x@y in a matrix product",
    "127.0.0.1, 10.1.2.3, 192.168.0.1, 0.0.0.0 and 300.1.1.1",
    "version 3.5.0.1 of section 13.2.3.1, 1.2.3.4.5 and v1.2.3.4",
    "http://user:password@host/ and https://name:{token}@host and mysql://u:$PASS@h",
    "sk-learn, sk-" + "a" * 40 + ", AKIA, AKIAIOSFODNN, eyJ.eyJ.x, ghp_short, xoxb-1",
    "+1, a+1 2 3, 1 + 49 30 90, C++11",
    "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
    "0123456789abcdef" * 8,
]


@pytest.mark.parametrize("name", SAMPLES)
def test_each_kind_of_personal_data_is_located(name):
    text = f"before\n  value = '{SAMPLES[name]}'\nafter".encode()
    (match,) = pii.find_pii(text)
    assert (match.name, text[match.start : match.end].decode()) == (name, SAMPLES[name])


def test_only_the_password_of_a_url_is_matched():
    text = b"postgres://admin:hunter2hunter2@db.internal/x"
    (match,) = pii.find_pii(text)
    assert (match.kind, text[match.start : match.end]) == ("secret", b"hunter2hunter2")


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_lookalikes_are_not_matched(text):
    assert pii.find_pii(text.encode()) == []


def test_masking_replaces_only_the_kinds_to_mask():
    text = f"ask {SAMPLES['email']} for {SAMPLES['aws']} at {SAMPLES['ip']}.".encode()
    matches = pii.find_pii(text)
    actions = {"email": "mask", "secret": "mask", "ip": "keep", "phone": "mask"}
    assert pii.mask_pii(text, matches, actions) == f"ask <email> for <secret> at {SAMPLES['ip']}.".encode()
    assert pii.find_pii(pii.mask_pii(text, matches, dict.fromkeys(actions, "mask"))) == []


def test_every_match_is_counted_by_its_pattern():
    text = f"{SAMPLES['email']} {SAMPLES['email']} {SAMPLES['npm']}".encode()
    assert pii.count_pii(pii.find_pii(text)) == {"pii.email": 2, "pii.npm": 1}


@pytest.mark.parametrize("name", ["email", "ip", "phone", "url_password"])
def test_searching_around_anchors_equals_searching_everywhere(name):
    (pattern,) = (pattern for pattern in pii.PII_PATTERNS if pattern.name == name)
    pieces = [
        "a@b.org",
        "@",
        "x.y-z",
        "+49 30 90 1820 44",
        "+1",
        " ",
        ".",
        "1.2.3.4",
        "93.184.216.34.5",
        "12",
        "://",
        "ftp://u:secret9@h",
        ":",
        "\n",
    ]
    num_matches = 0
    for seed in range(300):
        text = "".join(random.Random(seed).choices(pieces, k=40)).encode()
        spans = [match.span() for match in pattern.regex.finditer(text)]
        assert [match.span() for match in pii._search_around_anchors(pattern, text)] == spans
        num_matches += len(spans)
    assert num_matches > 50


LABELS = re.compile(r"\[\[(email|ip|phone|secret):(.*?)\]\]")
LABELLED_LINES = Path(__file__).with_name("pii_lines.txt").read_text(encoding="utf-8").splitlines()
KNOWN_FAULTS = (
    7  # lines at the end of the file: addresses in other alphabets or in words, rarer forms of phones, versions above 100
)


def test_labelled_lines_are_found_exactly_but_for_the_known_faults():
    assert len(LABELLED_LINES) >= 200
    wrong = []
    for line in LABELLED_LINES:
        text = LABELS.sub(lambda label: label[2], line).encode()
        if [(match.kind, text[match.start : match.end].decode()) for match in pii.find_pii(text)] != LABELS.findall(line):
            wrong.append(line)
    assert len(wrong) <= KNOWN_FAULTS, wrong
    assert set(wrong) <= set(LABELLED_LINES[-13:])


@pytest.mark.parametrize("unit", ["@", "a@", "-----BEGIN PRIVATE KEY-----", "a@b.", "0 12 ", "(555) "])
def test_repeated_signs_cost_no_more_than_linear_time(unit):
    pii.find_pii(unit.encode() * 100)  # compiles
    started = time.process_time()
    pii.find_pii(unit.encode() * (200_000 // len(unit)))
    assert time.process_time() - started < 0.4
