r"""LlamaIndex's own classes on a collection that `limbeck index … --out http://HOST:6333/NAME` made.

    python examples/rag/llama_index_rag.py http://127.0.0.1:6333/notes export "How do I merge two sorted lists?" \
        --llm qwen3@http://127.0.0.1:8080/v1

`export` is the folder that `limbeck export MODEL --format sentence-transformers --task retrieval --out export` made.
limbeck itself is not needed here.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

# As limbeck searches: candidates by bits or int8, put in order by float16; what is float16 already takes no notice.
SEARCH = models.SearchParams(hnsw_ef=128, quantization=models.QuantizationSearchParams(rescore=True, oversampling=10.0))


def open_index(client: QdrantClient, collection: str, folder: Path) -> VectorStoreIndex:
    """The collection, searched by the model that made it. Raises ValueError: the folder holds another model."""
    made: dict[str, Any] = (client.get_collection(collection).config.metadata or {}).get("limbeck") or {}
    export = json.loads((folder / "limbeck_export.json").read_text(encoding="utf-8"))
    if export["fingerprint"] != made.get("fingerprint"):
        raise ValueError(
            f"{folder} holds {export['name']} ({export['fingerprint']}), {collection} was made by {made.get('model')} "
            f"({made.get('fingerprint')}) for {made.get('task')}: export that"
        )
    embeddings = HuggingFaceEmbedding(
        str(folder),
        query_instruction=made["prompts"]["query" if made["task"] in (None, "retrieval") else "document"],
        text_instruction=made["prompts"]["document"],
        truncate_dim=made["dim"],
        normalize=True,
    )
    store = QdrantVectorStore(collection, client=client, dense_vector_name="dense", text_key="text")
    return VectorStoreIndex.from_vector_store(store, embed_model=embeddings)


def open_retriever(index: VectorStoreIndex, top: int, filters: MetadataFilters | None = None) -> BaseRetriever:
    """Finds chunks; id and title of the document, its fields, and where the chunk starts and ends are its metadata.

    Filters name fields as the payload has them, such as fields.lang.
    """
    return index.as_retriever(similarity_top_k=top, filters=filters, vector_store_kwargs={"search_params": SEARCH})


def main() -> None:
    """Print what is found, and with --llm an answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", metavar="http://HOST:6333/NAME")
    parser.add_argument("export", type=Path)
    parser.add_argument("question")
    parser.add_argument("--where", metavar="FIELD=TEXT", help="of documents whose field has this text")
    parser.add_argument("--top", type=int, default=8)
    parser.add_argument("--llm", metavar="MODEL@URL")
    given = parser.parse_args()
    server, _, name = given.collection.rpartition("/")
    client = QdrantClient(url=server, api_key=os.environ.get("QDRANT_API_KEY"))
    try:
        index = open_index(client, name, given.export)
    except (ApiException, ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    filters = None
    if given.where:
        field, _, value = given.where.partition("=")
        filters = MetadataFilters(filters=[MetadataFilter(key=f"fields.{field}", value=value)])
    retriever = open_retriever(index, given.top, filters)
    if not given.llm:
        found, answer = retriever.retrieve(given.question), None
    else:
        from llama_index.core.query_engine import CitationQueryEngine
        from llama_index.llms.openai_like import OpenAILike

        model, _, url = given.llm.rpartition("@")
        key = os.environ.get("OPENAI_API_KEY", "none")
        llm = OpenAILike(model=model, api_base=url, api_key=key, is_chat_model=True, temperature=0.0)
        engine = CitationQueryEngine.from_args(index, llm=llm, retriever=retriever, citation_chunk_size=1_024)
        response = engine.query(given.question)
        found, answer = response.source_nodes, response
    for number, node in enumerate(found, start=1):
        source = node.metadata
        print(f"[{number}] {source['id']}  {source['title']}  characters {source['start']}–{source['end']}")
    if answer is not None:
        print(f"\n{answer}")


if __name__ == "__main__":
    main()
