import random
import string

import pytest

from provenlm.domains.text.filter import pii

MIXED = random.Random(5)


def letters(count: int, of: str = string.ascii_letters + string.digits) -> str:
    return "".join(MIXED.choices(of, k=count))


UPPER = string.ascii_uppercase + "234567"
PLANTED = {
    "private_key": f"-----BEGIN RSA PRIVATE KEY-----\n{letters(64)}\n{letters(64)}\n-----END RSA PRIVATE KEY-----",
    "aws": "AKIA" + letters(16, UPPER),
    "github": "ghp_" + letters(36),
    "gitlab": "glpat-" + letters(20),
    "slack": f"xoxb-{letters(12, string.digits)}-{letters(24)}",
    "google": "AIza" + letters(35),
    "hugging_face": "hf_" + letters(34, string.ascii_letters),
    "openai": "sk-proj-" + "1" + letters(47),
    "stripe": "sk_live_" + letters(24),
    "npm": "npm_" + letters(36),
    "pypi": "pypi-AgE" + letters(80),
    "jwt": f"eyJ{letters(20)}.eyJ{letters(40)}.{letters(43)}",
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


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found_where_it_stands(name):
    text = f"before\n  value = '{PLANTED[name]}'\nafter".encode()
    (found,) = pii.finds(text)
    assert (found.name, text[found.start : found.end].decode()) == (name, PLANTED[name])


def test_the_password_of_an_address_is_found_and_the_rest_of_it_is_not():
    text = b"postgres://admin:hunter2hunter2@db.internal/x"
    (found,) = pii.finds(text)
    assert (found.kind, text[found.start : found.end]) == ("secret", b"hunter2hunter2")


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_it_is_left_alone(text):
    assert pii.finds(text.encode()) == []


def test_masking_puts_a_sign_in_place_of_what_is_asked_for_and_nothing_else():
    text = f"ask {PLANTED['email']} for {PLANTED['aws']} at {PLANTED['ip']}.".encode()
    found = pii.finds(text)
    kinds = {"email": "mask", "secret": "mask", "ip": "keep", "phone": "mask"}
    assert pii.masked(text, found, kinds) == f"ask <email> for <secret> at {PLANTED['ip']}.".encode()
    assert pii.finds(pii.masked(text, found, dict.fromkeys(kinds, "mask"))) == []


def test_every_find_is_counted_by_its_pattern():
    text = f"{PLANTED['email']} {PLANTED['email']} {PLANTED['npm']}".encode()
    assert pii.counted(pii.finds(text)) == {"private.email": 2, "private.npm": 1}


@pytest.mark.parametrize("name", ["email", "ip", "phone", "url_password"])
def test_what_is_looked_for_around_hints_alone_is_what_the_expression_finds_anywhere(name):
    (pattern,) = (pattern for pattern in pii.PATTERNS if pattern.name == name)
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
    found = 0
    for seed in range(300):
        text = "".join(random.Random(seed).choices(pieces, k=40)).encode()
        spans = [match.span() for match in pattern.expression.finditer(text)]
        assert [match.span() for match in pii._around(pattern, text)] == spans
        found += len(spans)
    assert found > 50
