"""The embedded site: pydoc's pages of the standard library and of installed packages, served over loopback HTTP by a child process.

`site` is the parent's side. Everything else runs in the child and imports the standard library alone.
"""
