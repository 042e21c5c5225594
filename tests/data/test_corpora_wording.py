import doctest

import pytest

from limbeck.data.corpora import wording
from limbeck.data.corpora.wording import cut, gist, imperative, plain, question, split_summary


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(wording).failed == 0


@pytest.mark.parametrize(
    ("marked", "words"),
    [
        ("Uses :class:`~json.JSONDecoder` or :ref:`a map <maps>`.", "Uses json.JSONDecoder or a map."),
        (
            "See `the paper <https://example.org>`_ and [the guide](https://example.org).",
            "See the paper and the guide.",
        ),
        ("Simple JSON <https://json.org> decoder", "Simple JSON decoder"),
        ("Takes ``x`` and `y`, *never* **z**.", "Takes x and y, never z."),
        ("The [`~Trainer.train`] method and [Field][a.Field].", "The Trainer.train method and Field."),
        ("Parameters\n----------\nx : int", "Parameters\nx : int"),
        ("+---+---+\n| a | b |\n+===+===+", "| a | b |"),
        ("Old.\n\n.. versionadded:: 1.2\n\nNew.", "Old.\n\nNew."),
        (".. note:: Slow for long lists.", "Slow for long lists."),
        (">>> f(1)\n2", "f(1)\n2"),
        ("a ** b * c, f(*args, **kwargs) and x[0]", "a ** b * c, f(*args, **kwargs) and x[0]"),
        ("Example::\n\n    for x in y:\n        print(x)", "Example:\n\nfor x in y:\nprint(x)"),
    ],
)
def test_markup_goes_and_words_stay(marked: str, words: str):
    assert plain(marked) == words


@pytest.mark.parametrize(
    ("text", "summary", "body"),
    [
        ("Close the file. Then forget it.\n\nMore.", "Close the file.", "Then forget it.\n\nMore."),
        ("Read a table, e.g. a\nCSV file. It is lazy.", "Read a table, e.g. a CSV file.", "It is lazy."),
        ("Works for version 1.5 of it.\n\nYes.", "Works for version 1.5 of it.", "Yes."),
        ("abs(input, *, out=None) -> Tensor\n\nThe absolute value.\n\nArgs", "The absolute value.", "Args"),
        ("nditer(\n op,\n flags=(),\n)\n--\n\nIterate over arrays.\n\nRest.", "Iterate over arrays.", "Rest."),
        ('!!! abstract "Usage"\n[models](x.md)\n\nCopies the model.\n\nRest.', "Copies the model.", "Rest."),
        ("Fit the model\nParameters:\nx: data", "Fit the model", "Parameters:\nx: data"),
        ("Do one of these\n- this\n- that", "Do one of these", "- this\n- that"),
        ('"Count the words.', "Count the words.", ""),
    ],
)
def test_the_summary_is_the_first_sentence(text: str, summary: str, body: str):
    assert split_summary(text) == (summary, body)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Args:\n x: a number",
        "Parameters\n\nx : int",
        ":param x: a number",
        "- one\n- two",
        "```python\nf(1)\n```",
        "size (int, optional, defaults to (2, 3)): The size of it.",
        "Copyright 2020 by the authors of this file.",
        "f(x)",
    ],
)
def test_what_opens_with_a_section_or_an_argument_has_no_summary(text: str):
    assert split_summary(text)[0] == ""


@pytest.mark.parametrize(
    ("summary", "asked"),
    [
        ("Return the sum of the rows.", "How do I get the sum of the rows?"),
        ("Computes a histogram.", "How do I compute a histogram?"),
        ("Whether the graph is connected.", "How do I check whether the graph is connected?"),
        ("Return True if the object is callable.", "How do I check whether the object is callable?"),
        ("Applies a mask.", "How do I apply a mask?"),
    ],
)
def test_a_summary_that_opens_with_a_verb_becomes_a_question(summary: str, asked: str):
    assert question(summary, 0) == asked


@pytest.mark.parametrize(
    "summary",
    [
        "A left-skewed random variable.",
        "List of axes.",
        "Is it sorted?",
        "Bus of events.",
        "",
        "Return.",
        "Return 0 if x",
    ],
)
def test_a_summary_that_fits_no_template_stays(summary: str):
    assert all(question(summary, choice) is None for choice in range(8))


def test_every_choice_of_template_is_a_question_about_the_same_thing():
    assert {question("Returns a copy of the list.", choice) for choice in range(4)} == {
        "How do I get a copy of the list?",
        "how to return a copy of the list",
        "How can I get a copy of the list?",
        "What can I use to return a copy of the list?",
    }


def test_summaries_that_differ_in_number_and_article_have_one_gist():
    assert gist("Returns the sum of a list.") == gist("Get a sum of the list")
    assert gist("Return the sum.") != gist("Return the mean.")


def test_a_noun_is_not_taken_for_a_verb():
    assert imperative("Classes") is None
    assert imperative("Applies") == "apply"
    assert imperative("Processes") == "process"


def test_a_text_is_cut_at_a_word():
    assert cut("one two three", 8) == "one two"
    assert cut("one two", 7) == "one two"
    assert cut("one two", 3) == "one"
    assert cut("unbreakable", 4) == "unbr"
