"""Headings and first sentences, of texts whose headings and sentences are plain to a reader."""

from __future__ import annotations

import pytest

from limbeck.data.headings import MAX_HEADING_CHARS, MAX_SUMMARY_CHARS, headings, split_summary

PROSE = "Some text that goes on for a while.\nAnd a second line of it, which ends here."


def between(line: str) -> str:
    """A line set off from the paragraphs around it."""
    return f"{PROSE}\n\n{line}\n\n{PROSE}"


# ------------------------------------------------------------------------------------------- headings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"# Guide\n\n{PROSE}\n\n## First steps ##\n{PROSE}\n### Sub-steps\n", ["Guide", "First steps", "Sub-steps"]),
        (f"A long title\n====\n\n{PROSE}\n\nA part of it\n-----\n\n{PROSE}", ["A long title", "A part of it"]),
        (f"=====\nTitle\n=====\n\nPart\n~~~~\n\n{PROSE}", ["Title", "Part"]),
        (f"== History ==\n{PROSE}\n=== Early years ===\n{PROSE}", ["History", "Early years"]),
        (f" = Robert = \n\n{PROSE}\n\n = = Career = = \n\n{PROSE}", ["Robert", "Career"]),
        (f"{PROSE}\n\n3.2 Storage layout\n{PROSE}\n\n3.2.1. Files\n\n{PROSE}", ["Storage layout", "Files"]),
        (between("The Storage Layout"), ["The Storage Layout"]),
        (between("4. The Storage Layout"), ["The Storage Layout"]),
        (f"Ein Überblick\n\n{PROSE}", ["Ein Überblick"]),
        ("# 概要\n\n説明です。\n\n## 使い方\n\n説明です。", ["概要", "使い方"]),
        (f"## Обзор\n{PROSE}\n## نظرة عامة\n{PROSE}", ["Обзор", "نظرة عامة"]),
    ],
)
def test_headings_of_each_markup_are_found_in_their_order(text, expected):
    assert headings(text) == expected


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("## 3.2 The *very* `fast` [index](https://a.b/c)", "The very fast index"),
        ("## **Usage:**", "Usage"),
        ('## <a name="x"></a>Options {#options}', "Options"),
        ("## :class:`Index` and __all__ of it", "Index and all of it"),
        ("## snake_case_name of it", "snake_case_name of it"),
        ("## 3.5 million people", "3.5 million people"),
        ("## 2. Usage", "Usage"),
        ("## What is it?", "What is it?"),
    ],
)
def test_marks_and_numbers_are_no_part_of_a_heading(heading, expected):
    assert headings(f"{heading}\n\n{PROSE}") == [expected]


def test_a_heading_that_comes_again_counts_once_whatever_its_case():
    assert headings("## Usage\n\na\n\n## Notes\n\nb\n\n## USAGE\n\nc") == ["Usage", "Notes"]


def test_code_in_fences_has_no_headings():
    text = "## Before\n\n````md\n## Inside\n```\n## Still inside\n````\n\n## After\n\n~~~\n## Inside\n\n## To the end\n"
    assert headings(text) == ["Before", "After"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "One line without an end",
        PROSE,
        "# one comment\nx = 1\n\n# another comment\n# of two lines\ny = 2\n",
        "## comment\n## comment\nx = 1",
        "    # indented code\n\n    ## more of it\n",
        f"## 1.2.3\n\n{PROSE}\n\n## a\n\n{PROSE}",  # no word
        f"## {'word ' * 30}\n\n{PROSE}",
        "A sentence that stands above a rule.\n---\n",
        "Two lines of a paragraph\nand a rule below\n------\n",
        "| Name | Size |\n|------|------|\n| Rope | long |\n",
        "Name  Size\n====  ====\nRope  long\n",
        "1.1 Introduction\n1.2 Methods\n1.3 Results\n",
        "3.2 Million people live in the city, which\nis by the sea.",
        f"1.1 Introduction ........ 12\n\n{PROSE}",
        between("It ends with a full stop."),
        between("For example:"),
        between("lower case words"),
        between("- One of a list"),
        between("Index = build(texts)"),
        between("Read it at https://example.org/a"),
        between("    Indented words"),
        between("Copyright (c) 2024 Somebody"),
        between("One word after the other until there are more than any title ever has"),
        f"{PROSE}\n\nYes\n\nNo\n\nPerhaps\n\n{PROSE}",  # several short lines are a list or a dialogue
        f"{PROSE}\n\n1. Buy milk\n\n2. Buy eggs\n\n{PROSE}",
        f"{PROSE}\n\nBest Regards\n",  # nothing comes below it
    ],
)
def test_what_only_looks_like_a_heading_is_none(text):
    assert headings(text) == []


def test_a_heading_of_the_longest_length_is_one_and_a_longer_one_is_none():
    longest = "ab" * (MAX_HEADING_CHARS // 2)
    assert headings(f"## {longest}\n\n{PROSE}\n\n## {longest}a\n\n{PROSE}") == [longest]


# ------------------------------------------------------------------------------------ first sentences


@pytest.mark.parametrize(
    "summary",
    [
        "A plain sentence ends here.",
        "Does a question end here?",
        "What a surprise that is!",
        "It trails off like this…",
        "Dr. J. R. Smith met Prof. Li, e.g. in the U.S. Senate.",
        "It costs 3.5 euros in version 2.0.1 of it.",
        "See no. 5 and fig. 3 of vol. 2 there.",
        "Am 3. Mai kam z. B. Herr Kant aus Königsberg, d. h. aus Preußen.",
        "The answer to that is no.",
        "Read the file example.txt at example.org first.",
        "He said “Go. Now.” to all of us.",
        'He said "Go. Now." to all of us.',
        "It reads a file (e.g. one of yours. Or mine.) and closes it.",
        "Wait... for it to come back.",
        "Это первое предложение, т. е. начало.",
        "यह पहला वाक्य है।",
        "هل هذه جملة أولى؟",
        "یہ پہلا جملہ ہے۔",
        "これは最初の文です。",
        "这是第一个句子！",
        "「行け。今だ」と彼は言った。",
    ],
)
@pytest.mark.parametrize("rest", ["The second sentence follows. And a third.", "这是第二个句子。"])
def test_the_first_sentence_is_told_from_the_rest(summary, rest):
    assert split_summary(f"  {summary} {rest}\n") == (summary, rest)


def test_scripts_without_spaces_need_none_behind_the_full_stop():
    assert split_summary("これは最初の文です。次の文です。") == ("これは最初の文です。", "次の文です。")


@pytest.mark.parametrize("gap", ["\n\n", "\n- ", "\n2. ", "\n \n"])
def test_a_blank_line_or_a_list_ends_a_sentence_without_a_full_stop(gap):
    found = split_summary(f"The first of\ntwo paragraphs{gap}The second one.")
    assert found is not None
    assert found[0] == "The first of two paragraphs" and found[1].endswith("The second one.")


@pytest.mark.parametrize("title", ["# 1. The *whole* title\n\n", "The whole title\n---\n", "== The whole title ==\n"])
def test_a_title_counts_as_the_first_sentence_without_its_marks(title):
    assert split_summary(f"{title}The text. And more.") == ("The whole title", "The text. And more.")


@pytest.mark.parametrize("title", ["# limbeck\n\n", "limbeck\n---\n\n"])
def test_a_title_too_short_to_ask_for_anything_stays_and_the_sentence_under_it_does(title):
    found = split_summary(f"{title}The first sentence. And more.")
    assert found == ("The first sentence.", "limbeck\n\nAnd more.")
    assert split_summary(f"{title}The only sentence.") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n ",
        "Nothing follows this sentence.",
        "Nothing but signs follows this sentence. ---",
        "Too short. The second sentence.",
        "短い文。次の文です。",
        "```\nsome code. More of it here.\n```\nText.",
        "- One of a list. And a sentence.",
        "| a | b | c |\n|---|---|---|\n\nText follows.",
        "word " * (MAX_SUMMARY_CHARS // 5) + "end. The second sentence.",
        "spaced" + " " * MAX_SUMMARY_CHARS + "out words. The second sentence.",
    ],
)
def test_a_document_without_a_usable_first_sentence_gives_none(text):
    assert split_summary(text) is None


def test_a_sentence_of_the_longest_length_is_one_and_a_longer_one_is_none():
    longest = "word " * (MAX_SUMMARY_CHARS // 5 - 1) + "end."
    assert len(longest) == MAX_SUMMARY_CHARS - 1
    assert split_summary(f"{longest} The second sentence.") == (longest, "The second sentence.")
    assert split_summary(f"aa{longest} The second sentence.") is None
