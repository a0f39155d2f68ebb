"""Identify licenses by their text or by an SPDX header."""

import re

LICENSE_FILES = {
    "LICENSE",
    "LICENCE",
    "COPYING",
    "UNLICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "LICENSE.rst",
    "LICENCE.txt",
    "LICENCE.md",
    "COPYING.txt",
}
SPDX_HEADER = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+()\- ]+?)[ \t]*(?:\*/|-->|$)", re.MULTILINE)
MAX_HEADER_CHARS = 2000  # characters
# Phrases that a license text must contain, all of them; the first match wins. Whitespace and case are ignored.
LICENSE_PHRASES = (
    ("Apache-2.0", ("apache license", "version 2.0")),
    ("AGPL-3.0", ("gnu affero general public license", "version 3")),
    ("LGPL-3.0", ("gnu lesser general public license", "version 3, 29 june 2007")),
    ("LGPL-2.1", ("gnu lesser general public license", "version 2.1")),
    ("GPL-3.0", ("gnu general public license", "version 3, 29 june 2007")),
    ("GPL-2.0", ("gnu general public license", "version 2, june 1991")),
    ("MPL-2.0", ("mozilla public license", "version 2.0")),
    ("EPL-2.0", ("eclipse public license", "v 2.0")),
    ("PSF-2.0", ("python software foundation license version 2",)),
    ("CC-BY-SA-4.0", ("attribution-sharealike 4.0 international",)),
    ("CC-BY-NC-4.0", ("attribution-noncommercial 4.0 international",)),
    ("CC-BY-4.0", ("attribution 4.0 international",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("BSL-1.0", ("boost software license - version 1.0",)),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software for any purpose with or without fee",)),
    ("MIT", ("permission is hereby granted, free of charge, to any person obtaining a copy", "without restriction")),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "neither the name")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms",)),
)


def license_from_text(text: str) -> str:
    """Return the SPDX identifier of a license text; "" if it is unknown."""
    normalized = " ".join(text.lower().split())
    return next((name for name, phrases in LICENSE_PHRASES if all(phrase in normalized for phrase in phrases)), "")


def spdx_license(text: str) -> str:
    """Return the license in the SPDX header of a file; "" if there is none.

    See the SPDX specification, annex E.
    """
    match = SPDX_HEADER.search(text[:MAX_HEADER_CHARS])
    return match[1].strip() if match else ""
