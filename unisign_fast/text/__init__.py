"""Text: the tokenizer, vocabulary trimming, normalisation before scoring."""
