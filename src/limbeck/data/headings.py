"""What a document itself says it is about: the headings inside it, and its first sentence. Pure functions of text.

They keep to what is safe, in many languages and markups: a heading that is missed costs one query, a line of code or
of a list that is taken for one teaches nonsense.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

MAX_HEADING_CHARS = 120
MAX_SUMMARY_CHARS = 300
_MIN_SUMMARY_WORDS, _MIN_SUMMARY_IDEOGRAPHS = 3, 6  # either will do: not every script puts spaces between words
_LOOKAHEAD = 20  # characters behind a full stop that tell whether it is one
_MAX_LINE_CHARS = 1000  # of a heading with its markup, such as addresses of links
_MAX_BARE_CHARS, _MAX_BARE_WORDS = 80, 12  # of a line that only its place marks as a heading

_CODE = "``` code"  # stands for every line of a fenced block: neither blank nor a heading
_FENCE = re.compile(r"\s*(`{3,}(?=[^`]*$)|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+(\S.*?)(?:[ \t]+#+)?[ \t]*$")  # Markdown: ## Title
_WIKI = re.compile(r" ?(={2,6}|=(?: =)*(?= ))\s*([^\s=].*?)\s*\1\s*$")  # == Title ==; WikiText: = = Title = =
_RULE = re.compile(r" {0,3}(([=\-~^\"'`*+#:.])\2{2,})[ \t]*$")  # setext and reStructuredText
_SECTION = re.compile(r"\d{1,2}(?:\.\d{1,2}){1,4}\.?[ \t]+")  # 3.2 Title
_ITEM = re.compile(r"\d{1,3}[.)][ \t]+")  # 3. Title, or the third item of a list
# What no title has: code, addresses, a copyright notice, the dots and gaps of a table of contents.
_NOT_A_TITLE = re.compile(r"[={}<>|\\@©]|\w\(|://|(?:\([cC]\)|[cC]opyright) \d|\.\.|\. \.|\t|   ")
_NOT_PROSE = re.compile(r"```|~~~|[|<{]|[-*+•>#][ \t]|\d{1,3}[.)][ \t]|([=\-~^*#_])\1\1|\.\. ")
_TWO_LETTERS = re.compile(r"[^\W\d_]{2}")
_CLOSING_PUNCTUATION = ".!?:;,…。！？：；，、؟؛،۔।॥։።"
_MARKUP = [
    (re.compile(r"!\[[^\]]*\](?:\([^)]*\))?|</?[A-Za-z][^>]*>|[ \t]*\{#[^}]*\}[ \t]*$"), ""),  # images, tags, anchors
    (re.compile(r"\[([^\]]+)\](?:\([^)]*\)|\[[^\]]*\])"), r"\1"),  # [text](address), [text][reference]
    (re.compile(r":[a-z][\w:+-]*:(?=`)"), ""),  # :class:`Name`
    (re.compile(r"(?<!\w)(\*{1,3}|_{1,3}|`{1,2})(\S(?:.*?\S)?)\1(?!\w)"), r"\2"),
]

# A full stop, with the quotes and brackets that it closes; or a blank line, or one that opens a list: no stop is needed
_CLOSERS = r"[\"'”’»›)\]」』）】》]*"
_STOP = re.compile(
    rf"(?P<wide>[。！？｡]+{_CLOSERS})|[.!?…؟۔।॥։።]+{_CLOSERS}(?=\s|$)"
    r"|(?P<gap>\n[ \t]*(?:\n|[-*+•#>|][ \t]|\d{1,3}[.)][ \t]))"
)
_ABBREVIATION = re.compile(
    r"\b(?:mrs?|ms|drs?|prof|rev|gen|col|sgt|capt|lt|st|sr|jr|mme|mlle|sra|srta|vs|cf|al|resp|approx|ca|incl|excl|esp|"
    r"eds?|ex|inc|ltd|corp|co|dept|univ|bzw|evtl|ggf|vgl|jan|feb|apr|aug|sept?|oct|nov|dec|им|ул)\.$",
    re.I,
)
# "see no. 5", but "the answer is no. Then"
_BEFORE_NUMBER = re.compile(r"\b(?:nos?|nr|figs?|eqs?|sec|chap|ch|vol|art|pp|abb|tab|стр|рис)\.$", re.I)
_SMALL_NUMBER = re.compile(r"(?<![\w.,])\d{1,2}\.$")  # an ordinal ("am 3. Mai"), or what numbers an item
_OPENING, _CLOSING = re.compile(r"[(（\[「『【《“«]"), re.compile(r"[)）\]」』】》”»]")


def headings(text: str) -> list[str]:
    r"""Headings inside a document, in order, each once (whatever its case), without marks and numbers.

    Known are those of Markdown, wikis and reStructuredText, lines such as "3.2 Title", and short lines between
    paragraphs that end without punctuation. Code in fences is skipped, and what is longer than MAX_HEADING_CHARS or
    has no two letters in a row.

    >>> headings("# A *short* guide\n\nHow to begin.\n\n## 1. Installation\n\nRun it.")
    ['A short guide', 'Installation']
    """
    lines = ["", *_without_code(text.splitlines()), ""]  # every line has neighbours
    found: dict[str, str] = {}
    for i in range(1, len(lines) - 1):
        if not lines[i].strip():
            continue
        heading = _plain(_marked(lines, i) or _bare(lines, i) or "")
        if len(heading) <= MAX_HEADING_CHARS and _TWO_LETTERS.search(heading):
            found.setdefault(heading.casefold(), heading)
    return list(found.values())


def split_summary(text: str) -> tuple[str, str] | None:
    """(first sentence on one line, what follows it) of a document; None where it does not open with a usable one.

    A title counts as the first sentence; one that is too short stays with what follows. Unusable are code, tables and
    lists, fewer than three words (or six ideographs), more than MAX_SUMMARY_CHARS, and a sentence that nothing
    follows. A full stop after an abbreviation, an initial or a small number ends no sentence.

    >>> split_summary("Returns the sum, e.g. of Dr. Li's 3.5 apples. NaN counts as 0.")
    ("Returns the sum, e.g. of Dr. Li's 3.5 apples.", 'NaN counts as 0.')
    """
    text = text.strip()
    first, second, after = [*text.split("\n", 2), "", ""][:3]
    title = _plain(_marked(["", first, second], 1) or "")
    if title:  # an underline goes with its title
        text = (after if _RULE.match(second) else f"{second}\n{after}").strip()
    if _says_enough(title):
        summary, rest, kept = title, text, ""
    elif _NOT_PROSE.match(text):
        return None
    else:
        end = _sentence_end(text[: MAX_SUMMARY_CHARS + _LOOKAHEAD])
        summary, rest, kept = text[:end], text[end:], title
    if len(summary) > MAX_SUMMARY_CHARS or not _says_enough(summary) or not _TWO_LETTERS.search(rest):
        return None
    return _plain(summary), f"{kept}\n\n{rest.strip()}".lstrip()


def _without_code(lines: Iterable[str]) -> Iterator[str]:
    """The lines, those of fenced blocks replaced by `_CODE`."""
    fence, before = "", ""
    for line in lines:
        mark = _FENCE.match(line)
        if mark and not fence and line[0] == "~" and 0 < len(before.strip()) <= len(line.rstrip()) == len(mark[1]):
            mark = None  # the underline of a title in reStructuredText
        before = line
        if fence:
            yield _CODE
            if mark and mark[1].startswith(fence) and not line[mark.end() :].strip():
                fence = ""
        elif mark:
            yield _CODE
            fence = mark[1]
        else:
            yield line


def _marked(lines: Sequence[str], i: int) -> str | None:
    """Line `i` as a heading, where signs around or under it say so."""
    before, line, after = lines[i - 1 : i + 2]
    if len(line) > _MAX_LINE_CHARS:
        return None
    if atx := _ATX.match(line):
        if atx[1] == "#":  # a comment of a script looks the same, but stands on the code that it explains
            return None if before.strip() or after.strip() else atx[2]
        beside = (_ATX.match(before), _ATX.match(after))
        return None if any(other and other[1] == atx[1] for other in beside) else atx[2]
    if wiki := _WIKI.match(line):
        return wiki[2]
    rule = _RULE.match(after)
    if not rule or _RULE.match(line) or line.startswith(("    ", "\t")) or line.rstrip()[-1:] in ("", *".,;。，；"):
        return None
    long_enough = rule[2] in "=-" or len(rule[1]) >= len(line.strip())  # setext asks for no length
    return line if long_enough and (not before.strip() or _RULE.match(before)) else None


def _bare(lines: Sequence[str], i: int) -> str | None:
    """Line `i` as a heading, where its number, or the blank lines around it, say so."""
    line, after = lines[i], lines[i + 1]
    if lines[i - 1].strip():
        return None
    if section := _SECTION.match(line):
        title = line[section.end() :]
        goes_on = after.lstrip()[:1].islower() or _SECTION.match(after)  # a sentence, or a table of contents
        return title if _is_title(title) and not goes_on else None
    if after.strip() or not _is_title(_unnumbered(line)):
        return None
    neighbours = (_nearest(lines, range(i - 1, 0, -1)), _nearest(lines, range(i + 1, len(lines))))
    if not neighbours[1] or any(_is_title(_unnumbered(other)) for other in neighbours):
        return None  # the end of the text, or one of several short lines: a list, a dialogue, a poem
    return line


def _nearest(lines: Sequence[str], places: Iterable[int]) -> str:
    """The first line that is not blank."""
    return next((lines[j] for j in places if lines[j].strip()), "")


def _is_title(line: str) -> bool:
    """Whether a line could be a title: short, begun by a letter, no lower-case one, and ended by no punctuation."""
    line = line.rstrip()
    begun = line[:1].isalpha() and not line[0].islower()
    short = len(line) <= _MAX_BARE_CHARS and len(line.split()) <= _MAX_BARE_WORDS
    return begun and short and line[-1] not in _CLOSING_PUNCTUATION and not _NOT_A_TITLE.search(line)


def _sentence_end(text: str) -> int:
    """Index just behind the first sentence; the length of the text where none ends."""
    for stop in _STOP.finditer(text):
        said, following = text[: stop.end()], text[stop.end() :].lstrip()[:1]
        if stop["gap"]:
            return stop.start()
        quoted = len(_OPENING.findall(said)) > len(_CLOSING.findall(said)) or said.count('"') % 2
        if quoted or (not stop["wide"] and (following.islower() or _shortens(text[: stop.start() + 1], following))):
            continue
        return stop.end()
    return len(text)


def _shortens(head: str, following: str) -> bool:
    """Whether the full stop at the end of `head` belongs to an abbreviation, an initial or a number."""
    if not head.endswith("."):
        return False
    initial = head[-2:-1].upper() != head[-2:-1].lower() and not head[-3:-2].isalnum()
    numbers = _SMALL_NUMBER.search(head) or (following.isdigit() and _BEFORE_NUMBER.search(head))
    return bool(initial or numbers or _ABBREVIATION.search(head))


def _says_enough(summary: str) -> bool:
    ideographs = sum(c.isalpha() and unicodedata.east_asian_width(c) == "W" for c in summary)
    words = sum(any(c.isalpha() for c in word) for word in summary.split())
    return words >= _MIN_SUMMARY_WORDS or ideographs >= _MIN_SUMMARY_IDEOGRAPHS


def _plain(heading: str) -> str:
    """On one line, without markup, number and closing colon."""
    heading = " ".join(heading.split())
    for pattern, replacement in _MARKUP:
        heading = pattern.sub(replacement, heading)
    return _unnumbered(heading.strip()).rstrip(" :")


def _unnumbered(line: str) -> str:
    """Without the number of a section or an item; "3.5 million people" has none."""
    numbered = _SECTION.match(line) or _ITEM.match(line)
    title = line[numbered.end() :] if numbered else line
    return line if title[:1].islower() else title
