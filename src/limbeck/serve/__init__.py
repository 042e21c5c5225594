"""A model behind HTTP: the APIs of OpenAI, Jina, Cohere and TEI, batching, keys, limits, metrics."""
