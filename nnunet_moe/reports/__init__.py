"""Tables, pictures and pages for several commands, and the scores that an evaluation has written."""
