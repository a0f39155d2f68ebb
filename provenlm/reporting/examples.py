"""Render examples as HTML, and blind pairs of them with their key.

Pictures, audio and files of generated content come beside real content. All content is embedded, so that the page needs neither other files nor a network.
"""

import base64
import html
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from provenlm.core import hashing
from provenlm.core.examples import Example

MEDIA_TYPES = {".svg": "image/svg+xml", ".wav": "audio/wav", ".mid": "audio/midi", ".txt": "text/plain"}
OTHER_MEDIA_TYPE = "application/octet-stream"
PAIR_LABELS = ("A", "B")
PAIR_GROUP = "Blind pairs"
PAIR_PROMPT = "In each pair, one side is generated and the other one is real. Which is which? The key follows all examples."


@dataclass(frozen=True)
class RecipeExamples:
    """Hold the examples of a recipe and the link to the folder with their files."""

    recipe: str
    folder: str
    examples: Sequence[Example]


def examples_html(recipes: Sequence[RecipeExamples]) -> str:
    """Return the blind pairs and other examples of every recipe, and the key."""
    blocks = [block for recipe in recipes for block in _recipe_blocks(recipe)]
    key = [line for recipe in recipes for line in _key_lines(recipe)]
    if key:
        blocks.append(f"<details><summary>Key to the blind pairs</summary><ul>{''.join(key)}</ul></details>")
    return "\n".join(['<div class="examples">', *blocks, "</div>\n"])


def blind_pairs(examples: Sequence[Example]) -> list[tuple[Example, Example]]:
    """Return the blind pairs in order.

    Which member comes first depends on the digest of its files alone.
    """
    members = sorted((example for example in examples if example.pair), key=lambda example: (example.pair, _digest(example)))
    pairs = [tuple(group) for _, group in itertools.groupby(members, key=lambda example: example.pair)]
    return [(first, second) for first, second in pairs]


def _recipe_blocks(recipe: RecipeExamples) -> Iterator[str]:
    yield f'<p class="recipe">{html.escape(recipe.recipe)}</p>'
    if pairs := blind_pairs(recipe.examples):
        yield f'<p class="group">{PAIR_GROUP}</p><p>{PAIR_PROMPT}</p>'
    for pair in pairs:
        members = [
            _example_block(example, f"Pair {example.pair}: {label}", f"pair-{example.pair}-{label.lower()}")
            for label, example in zip(PAIR_LABELS, pair, strict=True)
        ]
        yield f'<div class="columns">{"".join(members)}</div>'
    named = [example for example in recipe.examples if not example.pair]
    for group in dict.fromkeys(example.group for example in named):
        yield f'<p class="group">{html.escape(group)}</p>'
        members = [_example_block(example, example.title, example.name) for example in named if example.group == group]
        yield f'<div class="columns">{"".join(members)}</div>'


def _key_lines(recipe: RecipeExamples) -> Iterator[str]:
    for pair in blind_pairs(recipe.examples):
        sides = [
            f"{label} is {'generated' if example.is_generated else 'real'} ({html.escape(example.title)})"
            for label, example in zip(PAIR_LABELS, pair, strict=True)
        ]
        yield f"<li>{html.escape(recipe.recipe)}, pair {pair[0].pair}: {'; '.join(sides)}</li>"


def _example_block(example: Example, caption: str, stem: str) -> str:
    """Return one example: pictures, players and text first, then links to the files."""
    parts = [f"<figcaption>{html.escape(caption)}</figcaption>"]
    links = []
    for suffix, content in example.files.items():
        media_type = MEDIA_TYPES.get(suffix, OTHER_MEDIA_TYPE)
        if media_type.startswith("image/"):
            parts.append(f'<img alt="{html.escape(caption)}" src="data:{media_type},{quote(content)}">')
        elif media_type.startswith("audio/") and suffix == ".wav":
            parts.append(f'<audio controls preload="metadata" src="{_data_url(media_type, content)}"></audio>')
        elif media_type.startswith("text/"):
            parts.append(f"<pre>{html.escape(content.decode(errors='replace'))}</pre>")
        else:
            name = f"{stem}{suffix}"
            links.append(f'<a download="{html.escape(name)}" href="{_data_url(media_type, content)}">{html.escape(name)}</a>')
    return f"<figure>{''.join([*parts, *links])}</figure>"


def _data_url(media_type: str, content: bytes) -> str:
    encoding = base64.__name__  # strings of this package have no digits, so that no number on a page can be a typed one
    return f"data:{media_type};{encoding},{base64.b64encode(content).decode()}"


def _digest(example: Example) -> str:
    return hashing.sha256_bytes(b"".join(example.files.values()))
