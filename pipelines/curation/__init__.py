"""From broadcasts to a corpus: programmes -> timed texts and poses -> clips -> a release to train on (section 3.1)."""
