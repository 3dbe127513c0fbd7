"""Running teachers over a corpus, with dropout off and on, and keeping what they said."""
