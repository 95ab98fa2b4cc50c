"""What several commands show: tables, pictures and pages, and the scores that an evaluation has written."""
