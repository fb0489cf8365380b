"""What becomes of records, on any laptop: comparison, cost, report, history, systems under test."""
