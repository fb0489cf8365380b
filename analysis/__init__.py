"""What becomes of records and systems, on any laptop: compared, priced, reported, watched.

Knows no workload: a record describes itself. Imports nothing that measures.
"""
