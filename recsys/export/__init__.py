"""Copies of the published lists for consumers that don't read Delta: files, Redis, PostgreSQL.

Each target keeps whole versions of the lists side by side and a pointer to the one in force.
Readers follow the pointer, which is moved last: they see the version before or the new one, whole.
"""
