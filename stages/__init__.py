"""WHERE: one small module a stage. It reads files, calls one verb of the library, writes files and says in figures what it did."""

import os

# Before torch loads: two threads that spin while they wait lose most of a step as soon as anything else wants a core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
