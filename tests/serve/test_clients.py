"""Clients that others wrote, against a server on this machine; those that are not installed are left out.

The group `clients` of pyproject.toml has them all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

from limbeck.serve.app import make_app  # noqa: E402
from limbeck.serve.settings import Settings  # noqa: E402

TEXTS = ["how do I join two tables?", "Split the string.", "a key column"]
KEY = "a-key"


@pytest.fixture(scope="module")
def url(encoder: Any) -> Iterator[str]:
    """Of a server that wants a key."""
    app = make_app(encoder, Settings(), keys=KEY)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def near(found: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=1e-5)


def test_openai(url: str, encoder: Any) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        answer = client.embeddings.create(model="tiny:retrieval.query", input=TEXTS, dimensions=16)
        near([each.embedding for each in answer.data], encoder.encode(TEXTS, task="retrieval", role="query", dim=16))
        assert answer.fingerprint == encoder.fingerprint_of("retrieval")
        more = {"task": "clustering"}
        answer = client.embeddings.create(model="tiny", input=TEXTS, encoding_format="float", extra_body=more)
        near([each.embedding for each in answer.data], encoder.encode(TEXTS, task="clustering"))
        assert "tiny:clustering" in [model.id for model in client.models.list()]
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
            client.embeddings.create(model="tiny", input=[[1, 2, 3]])
        with pytest.raises(openai.NotFoundError, match="known are tiny"):
            client.embeddings.create(model="gpt", input=TEXTS)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="another", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            client.embeddings.create(model="tiny", input=TEXTS)


def test_langchain(url: str, encoder: Any) -> None:
    made = pytest.importorskip("langchain_openai").OpenAIEmbeddings(
        model="tiny:retrieval.query", base_url=f"{url}/v1", api_key=KEY, check_embedding_ctx_length=False, dimensions=16
    )
    near(made.embed_documents(TEXTS), encoder.encode(TEXTS, task="retrieval", role="query", dim=16))
    near(made.embed_query(TEXTS[0]), encoder.encode(TEXTS[0], task="retrieval", role="query", dim=16))


def test_cohere(url: str, encoder: Any) -> None:
    cohere = pytest.importorskip("cohere")
    client = cohere.ClientV2(api_key=KEY, base_url=url)
    kinds = ["float", "int8", "ubinary", "base64"]
    answer = client.embed(
        model="tiny", texts=TEXTS, input_type="search_document", embedding_types=kinds, output_dimension=16
    )
    near(answer.embeddings.float_, encoder.encode(TEXTS, task="retrieval", dim=16))
    assert answer.embeddings.ubinary == encoder.encode(TEXTS, task="retrieval", dim=16, precision="ubinary").tolist()
    assert answer.meta.billed_units.input_tokens > 0
    with pytest.raises(cohere.core.ApiError, match="known are tiny"):
        client.embed(model="embed-v4", texts=TEXTS, input_type="search_document")


def test_llama_index_by_openai_s_api(url: str, encoder: Any) -> None:
    module = pytest.importorskip("llama_index.embeddings.openai_like")
    made = module.OpenAILikeEmbedding(model_name="tiny:text-matching", api_base=f"{url}/v1", api_key=KEY)
    near(made.get_text_embedding_batch(TEXTS), encoder.encode(TEXTS, task="text-matching"))


@pytest.mark.parametrize("form", ["float", "binary", "ubinary"])
def test_llama_index_by_jina_s_api(form: str, url: str, encoder: Any) -> None:
    module = pytest.importorskip("llama_index.embeddings.jinaai")
    made = module.JinaEmbedding(
        model="tiny", api_key=KEY, task="retrieval.passage", dimensions=16, encoding_documents=form
    )
    made._api.api_url = f"{url}/v1/embeddings"  # there is no argument for it
    expected = encoder.encode(TEXTS, task="retrieval", dim=16)
    near(made.get_text_embedding_batch(TEXTS), expected if form == "float" else expected > 0)


def test_haystack(url: str, encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    embedders = pytest.importorskip("haystack.components.embedders")
    from haystack import Document
    from haystack.utils import Secret

    made = embedders.OpenAIDocumentEmbedder(
        api_base_url=f"{url}/v1", api_key=Secret.from_token(KEY), model="tiny:clustering", progress_bar=False
    )
    documents = made.run([Document(content=text) for text in TEXTS])["documents"]
    near([each.embedding for each in documents], encoder.encode(TEXTS, task="clustering"))
