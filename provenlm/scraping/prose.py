"""Pieces of a page in, laid-out text out: blanks run together as in a browser, preformatted text kept to the byte."""

import re

PIECE = re.compile("([ \t\n\r\f]+)|(\u00a0+)|([^ \t\n\r\f\u00a0]+)")


class Layout:
    """Text being laid out. Line breaks and blanks wait until something follows them, so that none is left at an end.

    A no-break space is a blank that is meant (pydoc indents with them): it is kept, even at the start of a line.
    """

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.breaks = 0  # line breaks that wait; at most two, one empty line
        self.blank = ""  # blanks that wait
        self.soft = True  # another ordinary blank would add nothing

    def flowing(self, text: str) -> None:
        """Text whose ordinary blanks and line breaks mean one blank."""
        for ordinary, meant, word in PIECE.findall(text):
            if word:
                self._write(word)
            elif meant:
                self.blank += " " * len(meant)
                self.soft = False
            elif ordinary and not self.soft:
                self.blank += " "
                self.soft = True

    def kept(self, text: str) -> None:
        """Text to keep as it is."""
        if text:
            self._write(text.replace("\u00a0", " "))

    def line(self) -> None:
        """What follows begins a line."""
        self._break(1)

    def paragraph(self) -> None:
        """What follows is set off by an empty line."""
        self._break(2)

    def forced(self) -> None:
        """A `<br>`: one line break more."""
        self._break(self.breaks + 1)

    def cell(self) -> None:
        """What follows is another cell of the same row, if the row has begun; an empty cell before it was for the eye."""
        self.blank, self.soft = "" if self.breaks or not self.parts else " | ", True

    def _break(self, breaks: int) -> None:
        self.breaks = min(2, max(self.breaks, breaks)) if self.parts else 0
        self.blank, self.soft = "", True

    def _write(self, text: str) -> None:
        if self.breaks:
            self.parts.append("\n" * self.breaks)
        self.parts.append(self.blank + text)
        self.breaks, self.blank, self.soft = 0, "", False

    def text(self) -> str:
        return "".join(self.parts)
