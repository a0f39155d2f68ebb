import pytest

pytest.importorskip("miditok")
pytest.importorskip("symusic")
pytest.importorskip("music21")
