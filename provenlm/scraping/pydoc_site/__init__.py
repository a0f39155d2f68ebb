"""Serve the pydoc pages of installed packages over loopback HTTP.

`site` runs in the parent process. Everything else runs in the child process and imports the standard library only.
"""
