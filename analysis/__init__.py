"""What becomes of records, on any laptop: compared, priced, reported, watched over time.

Knows no workload: a record describes itself. Imports nothing that measures.
"""
