"""`limbeck classify`: few-shot and zero-shot classifiers, on vectors that stay as they are."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.cli_parts import (
    DimOption,
    FieldOption,
    JsonOption,
    ModelArgument,
    SourcesArgument,
    console,
    print_json,
    progress,
)

if TYPE_CHECKING:
    from limbeck.classify.examples import Described, Examples
    from limbeck.classify.few_shot import Fitted
    from limbeck.classify.saved import Classifier
    from limbeck.encoding.reading import Inputs
    from limbeck.encoding.vectors import Task

classify = typer.Typer(
    name="classify",
    help="Classify texts: by a few examples of each label, or by the labels' names and descriptions.",
    epilog="Example: limbeck classify train runs/demo/model examples.jsonl --out runs/demo/topics",
    no_args_is_help=True,
)

ClassifierArgument = Annotated[
    str, typer.Argument(metavar="CLASSIFIER", help="A folder that [bold]limbeck classify train[/bold] wrote.")
]
ExamplesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="EXAMPLES…", help="JSONL or Parquet files with a text and a label in each row, folders of them, or -."
    ),
]
TextField = Annotated[str, typer.Option("--field", help="Field or column that holds the text.")]
LabelField = Annotated[str, typer.Option("--label", help="Field or column that holds the label.")]
IdOption = Annotated[
    str | None, typer.Option("--id", metavar="FIELD", help="Write this field or column beside the labels, not texts.")
]
OutOption = Annotated[str, typer.Option(help="FILE.jsonl, or - for standard output.")]
AllOption = Annotated[bool, typer.Option("--all", help="Write the probability of every label.")]


@classify.command(
    epilog="Example: limbeck classify train runs/demo/model examples.jsonl --field text --label label "
    "--out runs/demo/topics"
)
def train(
    model: ModelArgument,
    examples: ExamplesArgument,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="To write; an earlier classifier in it is replaced.")],
    field: TextField = "text",
    label: LabelField = "label",
    task: Annotated[
        str | None, typer.Option(help="Adapter whose vectors to use, or a blend, or auto; classification if not said.")
    ] = None,
    dim: DimOption = None,
    strength: Annotated[
        float | None,
        typer.Option(help="Of the fit: more is freer (scikit-learn's C); chosen by cross-validation if not said."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split into folds.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Fit a classifier to examples, calibrate its probabilities, and say how good it is.

    All scores are of examples that were held out from what scores them. The text and its label stand in one row:
    {"text": "…", "label": "…"}.
    """
    from pathlib import Path

    import limbeck
    from limbeck.classify.examples import find_examples, read_examples
    from limbeck.classify.few_shot import TASK, check_labels, fit
    from limbeck.classify.saved import Classifier, check_free
    from limbeck.encode_file import parse_task
    from limbeck.encoding.vectors import checked_dim, settled_task

    check_free(Path(out))
    read = read_examples(find_examples(examples, field=field, label=label))
    check_labels(read.labels)
    encoder = limbeck.load(model)
    settled = settled_task(encoder, parse_task(task) if task else None, read.texts, usual=TASK)
    vectors, cut = _encoded(encoder, read, settled, checked_dim(encoder, dim))
    with console(sys.stderr).status("fitting"):
        fitted = fit(vectors, read.labels, strength=strength, seed=seed, never_held_out=read.contradictory)
    made = Classifier.of(
        encoder,
        fitted.head,
        task=settled,
        kind="few-shot",
        calibrated=fitted.report is not None,
        examples=len(read),
        settings={"strength": fitted.strength, "seed": seed},
        report=fitted.report and fitted.report.as_dict(),
    )
    made.save(out)
    notes = [*_reading_notes(read, cut, encoder.max_tokens), *_fit_notes(fitted)]
    if as_json:
        print_json({"out": out, **made.manifest.model_dump(mode="json"), "notes": notes})
        return
    for line in fitted.report.lines() if fitted.report else ():
        typer.echo(line)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"wrote {out}: {len(read):,} examples, strength {fitted.strength:g}, {_temperature(made)}")


@classify.command(
    epilog="Example: limbeck classify predict runs/demo/topics runs/demo/model texts.txt --out labels.jsonl"
)
def predict(
    classifier: ClassifierArgument,
    model: ModelArgument,
    sources: SourcesArgument = None,
    out: OutOption = "-",
    field: FieldOption = None,
    id_field: IdOption = None,
    every: AllOption = False,
    as_json: JsonOption = False,
) -> None:
    """Label texts. Row N of the output is row N of the input: {"text": …, "label": …, "probability": …}."""
    import limbeck
    from limbeck.classify.predict import check_out
    from limbeck.classify.saved import Classifier
    from limbeck.encoding.reading import find_inputs

    check_out(out)
    loaded = Classifier.load(classifier)
    inputs = find_inputs(sources or ["-"], field=field, id=id_field)
    _predict(loaded, limbeck.load(model), inputs, out, every, as_json)


@classify.command(epilog="Example: limbeck classify test runs/demo/topics runs/demo/model heldout.jsonl")
def test(
    classifier: ClassifierArgument,
    model: ModelArgument,
    examples: ExamplesArgument,
    field: TextField = "text",
    label: LabelField = "label",
    as_json: JsonOption = False,
) -> None:
    """Score a classifier on examples that it was not made from."""
    import limbeck
    from limbeck.classify.examples import check_known, find_examples, read_examples
    from limbeck.classify.head import targets_of
    from limbeck.classify.report import report_of
    from limbeck.classify.saved import Classifier

    loaded = Classifier.load(classifier)
    read = read_examples(find_examples(examples, field=field, label=label))
    check_known(read, loaded.head.labels)
    encoder = limbeck.load(model)
    loaded.check_model(encoder)
    vectors, cut = _encoded(encoder, read, loaded.task, loaded.manifest.dim)
    logits = loaded.head.logits(vectors) / loaded.head.temperature
    report = report_of("examples", logits, targets_of(read.labels, loaded.head.labels), loaded.head.labels)
    notes = _reading_notes(read, cut, encoder.max_tokens)
    if as_json:
        print_json({**report.as_dict(), "notes": notes})
        return
    for line in report.lines():
        typer.echo(line)
    for note in notes:
        typer.echo(f"note: {note}", err=True)


@classify.command(
    "zero-shot",
    epilog="Example: limbeck classify zero-shot runs/demo/model texts.txt --label 'bug=something does not work' "
    "--label 'wish=something is missing'",
)
def zero_shot(
    model: ModelArgument,
    sources: SourcesArgument = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=DESCRIPTION]", help="A label, and what it means; given for each of them."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="FILE.jsonl", help='Or all of them: {"label": …, "description": …} a line.')
    ] = None,
    examples: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="JSONL or Parquet with text and label, to calibrate the probabilities by."),
    ] = None,
    examples_field: Annotated[str, typer.Option(help="Field of --examples that holds the text.")] = "text",
    examples_label: Annotated[str, typer.Option(help="Field of --examples that holds the label.")] = "label",
    scale: Annotated[
        float | None, typer.Option(help="Cosines are multiplied by this before the softmax; 12 if not said.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Adapter whose vectors to use, or a blend; clustering if not said.")
    ] = None,
    dim: DimOption = None,
    save: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Also write the classifier, for predict; without INPUT, do no more."),
    ] = None,
    out: OutOption = "-",
    field: FieldOption = None,
    id_field: IdOption = None,
    every: AllOption = False,
    as_json: JsonOption = False,
) -> None:
    """Label texts by what the labels are called and mean, without examples.

    With --examples, the scale of the cosines is the one that suits these, and how good the labels are is said.
    """
    from pathlib import Path

    import limbeck
    from limbeck.classify import zero_shot as zero
    from limbeck.classify.examples import check_known, find_examples, read_examples
    from limbeck.classify.predict import check_out
    from limbeck.classify.saved import Classifier, check_free
    from limbeck.encode_file import parse_task
    from limbeck.encoding.reading import find_inputs
    from limbeck.encoding.vectors import checked_dim, settled_task

    described = _described(label, labels)
    if scale is not None and (scale <= 0 or examples):
        raise typer.BadParameter(f"--scale is above 0, and either given or chosen by --examples; got {scale:g}")
    if task == "auto":
        raise typer.BadParameter("--task auto would depend on the texts: name a task or a blend")
    check_out(out)
    if save:
        check_free(Path(save))
    read = None
    if examples:
        read = read_examples(find_examples(examples, field=examples_field, label=examples_label))
        check_known(read, [each.label for each in described])
    inputs = find_inputs(sources or ["-"], field=field, id=id_field) if sources or not save else None
    encoder = limbeck.load(model)
    settled = settled_task(encoder, parse_task(task) if task else None, (), usual=zero.TASK)
    width = checked_dim(encoder, dim)
    head = zero.head_of(encoder, described, task=settled, dim=width, scale=scale or zero.SCALE)
    report, notes = None, []
    if read:
        vectors, cut = _encoded(encoder, read, settled, width)
        head, report = zero.calibrated(head, vectors, read.labels)
        notes = _reading_notes(read, cut, encoder.max_tokens)
    made = Classifier.of(
        encoder,
        head,
        task=settled,
        kind="zero-shot",
        calibrated=report is not None,
        examples=len(read) if read else 0,
        settings={"descriptions": [each.description for each in described]},
        report=report and report.as_dict(),
    )
    if save:
        made.save(save)
    if not as_json:
        for line in [*(report.lines() if report else ()), *(f"note: {note}" for note in notes)]:
            typer.echo(line, err=True)  # labels have standard output
        if save:
            typer.echo(f"wrote {save}: {len(described)} labels, {_temperature(made)}", err=True)
    known = {**made.manifest.model_dump(mode="json"), "notes": notes}
    if inputs is None:
        if as_json:
            print_json({"out": save, **known})
        return
    _predict(made, encoder, inputs, out, every, as_json, {"classifier": known})


def _described(label: list[str] | None, labels: str | None) -> list[Described]:
    from limbeck.classify.examples import parse_labels, read_labels

    if bool(label) == bool(labels):
        raise typer.BadParameter("give the labels either by --label, once for each, or by --labels, a file")
    return read_labels(labels) if labels else parse_labels(label or ())


def _encoded(encoder: Any, examples: Examples, task: Task, dim: int) -> tuple[Any, int]:
    """Vectors of examples, and how many texts were cut."""
    from limbeck.encoding.vectors import vectors_of

    with progress("encoding", lambda: len(examples)) as advance:
        vectors = vectors_of(encoder, examples.texts, examples.places, task=task, dim=dim, progress=advance)
    return vectors, encoder.truncated


def _predict(
    classifier: Classifier,
    encoder: Any,
    inputs: Inputs,
    out: str,
    every: bool,
    as_json: bool,
    further: dict[str, Any] | None = None,
) -> None:
    from limbeck.classify.predict import predict_file
    from limbeck.encoding.reading import count_rows

    with progress("classifying", lambda: count_rows(inputs)) as advance:
        stats = predict_file(classifier, encoder, inputs, out, every=every, progress=advance)
    if as_json:
        print_json({**asdict(stats), **(further or {})}, to=sys.stderr if out == "-" else sys.stdout)
    else:
        typer.echo(stats, err=True)


def _reading_notes(read: Examples, cut: int, max_tokens: int) -> list[str]:
    notes = []
    if read.repeated:
        notes.append(f"rows left out, since their text and label came before: {read.repeated:,}")
    if any(read.contradictory):
        first = [place for place, wrong in zip(read.places, read.contradictory, strict=True) if wrong]
        notes.append(f"rows whose text has another label elsewhere: {len(first):,} ({_some(first)})")
    if cut:
        notes.append(f"texts cut at {max_tokens:,} tokens: {cut:,}")
    return notes


def _fit_notes(fitted: Fitted) -> list[str]:
    if fitted.report is None:
        return [
            "no label has two examples, so that none was held out: how good the classifier is, is not known, and its "
            "probabilities are not calibrated"
        ]
    if fitted.unscored:
        return [f"labels with a single example, which is learnt from and not scored: {_some(fitted.unscored)}"]
    return []


def _some(items: Iterable[object], shown: int = 5) -> str:
    names = [str(item) for item in items]
    return ", ".join(names[:shown]) + (f" and {len(names) - shown:,} more" if len(names) > shown else "")


def _temperature(classifier: Classifier) -> str:
    made = classifier.manifest
    how = "calibrated" if made.calibrated else "not calibrated"
    value = f"temperature {made.temperature:.3g}" if made.kind == "few-shot" else f"scale {1 / made.temperature:.3g}"
    return f"{value} ({how})"
