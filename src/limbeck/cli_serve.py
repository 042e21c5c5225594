"""`limbeck serve`: a model behind HTTP."""

from __future__ import annotations

import ipaddress
import logging
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.cli_parts import Backend, BackendOption, Compute, ComputeOption, ModelArgument

if TYPE_CHECKING:
    from limbeck.search.index import Index

EPILOG = "Example: limbeck serve runs/demo/model --port 8080 --keys keys.txt"


def serve(
    model: ModelArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine, which wants keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free, which the log then says.", min=0, max=65535)] = 8080,
    name: Annotated[str | None, typer.Option(help="Of the model in requests; the bundle's own if not said.")] = None,
    alias: Annotated[
        list[str] | None, typer.Option(help="A further name, such as one a client has built in; may be given often.")
    ] = None,
    default_task: Annotated[
        str | None,
        typer.Option(
            "--default-task", help="Of requests that name none; text-matching if not said, where the model has it."
        ),
    ] = None,
    classifier: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Serve a saved classifier by this name; may be given often."),
    ] = None,
    index: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PLACE",
            help="Search an index by this name, a folder or http://HOST:6333/NAME; may be given often.",
        ),
    ] = None,
    page: Annotated[
        bool, typer.Option("--page/--no-page", help="Whether / is a page to try the model with, in a browser.")
    ] = True,
    keys: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="API keys, one a line; read again when it changes. The environment variable LIMBECK_API_KEYS has "
            "further ones.",
        ),
    ] = None,
    requests_per_minute: Annotated[float | None, typer.Option(help="Of each key.", min=0)] = None,
    tokens_per_minute: Annotated[float | None, typer.Option(help="Of each key.", min=0)] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Let this web page's scripts call the server (CORS); may be given often."),
    ] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Computed at a time; by the device if not said.")] = None,
    parallel_batches: Annotated[
        int | None,
        typer.Option(
            help="Batches that a CPU computes at a time, each on its share of the cores; by the cores, up to 4."
        ),
    ] = None,
    window_ms: Annotated[
        float | None, typer.Option(help="How long a batch waits for more, once two requests wait. [2]")
    ] = None,
    queue_tokens: Annotated[
        int | None, typer.Option(help="That may wait; further requests get status 429. [500,000]")
    ] = None,
    waiting_requests: Annotated[int | None, typer.Option(help="Requests at a time, likewise. [512]")] = None,
    request_tokens: Annotated[int | None, typer.Option(help="Of one request. [300,000]")] = None,
    request_texts: Annotated[int | None, typer.Option(help="Of one request. [2,048]")] = None,
    body_bytes: Annotated[int | None, typer.Option(help="Of one request. [16 MiB]")] = None,
    request_seconds: Annotated[float | None, typer.Option(help="For an answer. [120]")] = None,
    shutdown_seconds: Annotated[int | None, typer.Option(help="For what was accepted before SIGTERM. [60]")] = None,
    hold: Annotated[
        int | None, typer.Option(help="Merged adapters kept at a time; as many as fit in 1 GiB if not said.", min=1)
    ] = None,
    compute: ComputeOption = Compute.auto,
    backend: BackendOption = Backend.torch,
    compile: Annotated[
        bool, typer.Option("--compile", help="Let torch compile the model: slower to start, faster after that.")
    ] = False,
    tls_certificate: Annotated[str | None, typer.Option("--ssl-certfile", metavar="FILE", help="For https.")] = None,
    tls_key: Annotated[str | None, typer.Option("--ssl-keyfile", metavar="FILE", help="For https.")] = None,
    root_path: Annotated[str, typer.Option(help="What a proxy in front takes off the path, such as /embeddings.")] = "",
) -> None:
    """Serve a model by the APIs of OpenAI, Jina, Cohere and text-embeddings-inference.

    Only this machine can reach it unless --host says otherwise. It asks for a key if there are some. / is a page to try
    it, /docs shows every route, /metrics is for Prometheus. SIGTERM and Ctrl-C finish what was accepted.
    """
    import gc

    import uvicorn

    import limbeck
    from limbeck.classify.saved import Classifier
    from limbeck.machine import use_one_arena
    from limbeck.serve.app import make_app
    from limbeck.serve.keys import ENVIRONMENT
    from limbeck.serve.settings import checked

    use_one_arena()  # before there are threads
    given: dict[str, Any] = {
        "name": name,
        "aliases": tuple(alias or ()),
        "default_task": default_task,
        "batch_tokens": batch_tokens,
        "parallel_batches": parallel_batches,
        "window_ms": window_ms,
        "queue_tokens": queue_tokens,
        "waiting_requests": waiting_requests,
        "request_tokens": request_tokens,
        "request_texts": request_texts,
        "body_bytes": body_bytes,
        "request_seconds": request_seconds,
        "shutdown_seconds": shutdown_seconds,
        "keys_file": keys,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "origins": tuple(origin or ()),
        "page": page,
        "debug": os.environ.get("LIMBECK_DEBUG", "0") not in ("", "0"),
    }
    settings = checked(**{field: value for field, value in given.items() if value is not None})
    classifiers = {own: Classifier.load(folder) for own, folder in _named("--classifier", "FOLDER", classifier)}
    indexes = {own: _opened(place) for own, place in _named("--index", "PLACE", index)}
    environment = os.environ.get(ENVIRONMENT)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for noisy in ("httpx", "transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    encoder = limbeck.load(model, backend=backend.value, compile=compile, precision=compute.value, hold=hold)
    app = make_app(encoder, settings, classifiers=classifiers, indexes=indexes, keys=environment)
    if not (_is_loopback(host) or keys or environment):
        typer.echo(f"limbeck: anyone who can reach {host} may ask: give --keys FILE or set {ENVIRONMENT}", err=True)
    gc.collect()
    gc.freeze()  # what was imported and loaded stays: to look through it again and again took a third of a request
    uvicorn.run(
        app,
        host=host,
        port=port,
        root_path=root_path,
        ssl_certfile=tls_certificate,
        ssl_keyfile=tls_key,
        access_log=False,  # the gate logs each request, by its route instead of its path
        log_config=None,
        server_header=False,
        timeout_keep_alive=75,  # longer than clients and balancers keep one: none is closed as a request comes
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )


def _named(option: str, what: str, given: list[str] | None) -> list[tuple[str, str]]:
    """NAME=… of an option, each name once."""
    found: dict[str, str] = {}
    for each in given or ():
        name, _, place = each.partition("=")
        if not name or not place:
            raise typer.BadParameter(f"{option} is NAME={what}, got {each!r}")
        if name in found:
            raise typer.BadParameter(f"{option} names {name!r} twice: each needs a name of its own")
        found[name] = place
    return list(found.items())


def _opened(place: str) -> Index:
    from limbeck.search.index import Index

    return Index.without_model(place)  # the server makes the vectors of queries, in batches


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
