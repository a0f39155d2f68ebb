"""WHERE: one small module a stage. It reads files, calls one verb of the library, writes files and says in figures what it did."""
