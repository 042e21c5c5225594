"""Whole corpora, shard by shard, by many workers: processes of this machine, or a Ray cluster."""
