"""The embedded world: generated corpora, benchmarks and a tiny base model that need no network.

Importing this package is light; torch, transformers and tokenizers load where they are used.
"""
