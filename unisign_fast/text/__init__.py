"""Between texts and tokens: tokenizer, trimmed vocabularies, normalisation before scoring."""
