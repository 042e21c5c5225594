"""Text of a docstring: markup away, summary apart from body, summary turned into a question. Pure functions."""

from __future__ import annotations

import inspect
import re

MIN_SUMMARY_WORDS = 3  # "Close it." asks for nothing in particular
MAX_SUMMARY_WORDS = 50  # a longer first sentence is a paragraph without a full stop
_MAX_PARAMETER_CHARS = 160

# Directives whose words belong to the text; the others (versionadded, currentmodule, plot …) say nothing about what the
# object does.
_SAID = "note|warning|important|tip|caution|attention|seealso|hint|danger|admonition|rubric|math"
# (what a text must hold for the pattern to be tried, pattern, replacement), in the order in which they are applied.
_MARKUP = [
    ("", re.compile(r"^[ \t]*(?:([=\-~^\"'*#+_.])\1{2,}|[+=-][+= -]{2,})[ \t]*\n?", re.M), ""),  # underlines, tables
    (".. ", re.compile(r"^[ \t]*\.\. (?:_.*:|\[.*\]|\|.*\|).*\n?", re.M), ""),  # link targets, footnotes
    (".. ", re.compile(rf"^([ \t]*)\.\. (?:{_SAID}) ?::[ \t]*", re.M), r"\1"),
    (".. ", re.compile(r"^[ \t]*\.\. [\w:-]+ ?::.*\n?", re.M), ""),
    ("", re.compile(r"^([ \t]*)(?:>>>|\.\.\.)(?: |$)", re.M), r"\1"),  # doctest prompts
    ("%(", re.compile(r"%\(\w+\)[sr]"), ""),  # filled in when the package is imported
    (":`", re.compile(r":[a-zA-Z][\w:+-]*:`[~!]?\.?([^`<]+?)(?:\s*<[^`>]*>)?`"), r"\1"),  # :class:`~a.B`
    ("`_", re.compile(r"`([^`<]+?)\s*<[^`>]+>`_{1,2}"), r"\1"),  # `text <https://…>`_
    ("`", re.compile(r"(`{1,2})[~!]?(?:\.(?=[A-Za-z]))?([^`\n]+)\1_{0,2}"), r"\2"),
    ("://", re.compile(r" ?<(?:https?|ftp)://[^>\s]*>"), ""),
    ("](", re.compile(r"!?\[([^\]\[\n]+)\]\([^)\s]+\)"), r"\1"),  # [text](https://…)
    ("[", re.compile(r"(?<!\w)\[[~!]?([A-Za-z_][\w.]*)\](?:\[[\w.~]*\])?"), r"\1"),  # [~Trainer.train], [Field][a.b]
    ("*", re.compile(r"(?<![\w*])(\*{1,2})(\w[\w.,]*)\1(?![\w*])"), r"\2"),  # *x*, **never**
    ("::", re.compile(r"::[ \t]*$", re.M), ":"),
    ("", re.compile(r"[ \t\f\v\u00a0]{2,}|[\t\f\v\u00a0]"), " "),
    ("", re.compile(r"^ | $", re.M), ""),
    ("\n\n\n", re.compile(r"\n{3,}"), "\n\n"),
]
_STOP = re.compile(r"[.!?](?=\s|$)")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.?g|i\.?e|etc|vs|cf|resp|approx|fig|eq|no|al|incl|w\.r\.t|a\.k\.a)|\b[A-Z])\.$", re.I
)
# "abs(input, *, out=None) -> Tensor" alone on its line, over several lines where it is long.
_SIGNATURE = re.compile(r"\A[\w.]+\([^()]*(?:\([^()]*\)[^()]*)*\)[ \t]*(?:->[^\n]*)?\s*(?:\n--)?\s*(?:\n|\Z)")
_SECTION = (
    r"(?:args?|arguments?|parameters?|params?|returns?|yields?|raises?|examples?|notes?|usage|references?|see also"
    r"|attributes?|todo|fixme|inputs?|outputs?|keyword args|example usage)[ \t]*(?::|\n|$)"
)
# First lines that open a section, a list, an argument or an example: such a docstring has no summary.
_NOT_A_SUMMARY = re.compile(
    rf"[:.@>#*|+\-\[{{(<%$\\`]|\d+[.)]|\w+ \([^\n]*\) ?:|\w+ ?:\s|copyright|license|{_SECTION}", re.I
)
# Lines that end the paragraph which a summary stands in.
_NEW_PART = re.compile(rf"\n(?=[-*+•:] ?\w|\d+[.)] |```|{_SECTION})", re.I)


def plain(docstring: str) -> str:
    """Dedented text without reST and Markdown marks: roles, backticks, underlines, directives, doctest prompts.

    Lines stay lines and paragraphs stay apart; the words of notes and the code of examples are kept.
    """
    text = inspect.cleandoc(docstring)
    for sign, pattern, replacement in _MARKUP:
        if sign in text:
            text = pattern.sub(replacement, text)
    return text.strip()


def split_summary(text: str) -> tuple[str, str]:
    """(summary, body) of a plain docstring; the summary is "" where it opens with a section, a list or an example.

    The summary is the first sentence of the first paragraph, on one line. A signature or an admonition in front of it
    is dropped.
    """
    while lead := _SIGNATURE.match(text):
        text = text[lead.end() :].lstrip()
    while text.startswith("!!!"):  # MkDocs: "!!! abstract" and what is indented below it
        text = text.partition("\n\n")[2].lstrip()
    if not text or _NOT_A_SUMMARY.match(text):
        return "", text
    first, _, rest = text.partition("\n\n")
    if part := _NEW_PART.search(first):
        first, rest = first[: part.start()], f"{first[part.end() :]}\n\n{rest}"
    first = " ".join(first.split())
    if first.count('"') == 1:
        first = first.lstrip('" ')  # four quotes typed for three
    end = _sentence_end(first)
    summary, more = first[:end].strip(), first[end:].strip()
    return summary, "\n\n".join(part for part in (more, rest.strip()) if part)


def _sentence_end(line: str) -> int:
    """Index just behind the first sentence of `line`."""
    for stop in _STOP.finditer(line):
        following = line[stop.end() :].lstrip()[:1]
        if not _ABBREVIATION.search(line[: stop.end()]) and not following.islower():
            return stop.end()
    return len(line)


def squeeze(text: str) -> str:
    """Words only, lower case: what two texts are compared by."""
    return " ".join(re.findall(r"\w+", text.lower()))


def gist(summary: str) -> str:
    """What two summaries are compared by: "Returns the sum" and "Get a sum." ask for the same."""
    first, *rest = squeeze(summary).split() or [""]
    verb = imperative(first)
    opening = "get" if verb in _GET else verb or first
    return " ".join([opening, *(word for word in rest if word not in ("a", "an", "the"))])


def cut(text: str, limit: int) -> str:
    """At most `limit` characters, ended at a word where one ends."""
    if len(text) <= limit:
        return text
    if text[limit].isspace():
        return text[:limit].rstrip()
    head = text[:limit]
    space = max(head.rfind(" "), head.rfind("\n"))
    return head[:space].rstrip() if space > 0 else head


def asks_for_something(summary: str) -> bool:
    """Whether a summary has words enough to search by, and is no paragraph, address or formula."""
    words = summary.split()
    if not MIN_SUMMARY_WORDS <= len(words) <= MAX_SUMMARY_WORDS or "://" in summary or re.search(r"\w@\w", summary):
        return False
    return sum(word.strip(".,:;()\"'").isalpha() for word in words) >= max(MIN_SUMMARY_WORDS, 0.5 * len(words))


def encodable(text: str) -> bool:
    """Whether a text can be stored: lone surrogates, written as escapes in a docstring, are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def signature(name: str, parameters: str | None) -> str:
    """What a documented object is headed by: its name, and its parameters where it has some, cut if many."""
    if not parameters:
        return name
    shown = parameters if len(parameters) <= _MAX_PARAMETER_CHARS else cut(parameters, _MAX_PARAMETER_CHARS) + " …"
    return f"{name}({shown})"


# ---------------------------------------------------------------------------------------- questions

# Verbs that open a summary. Only these become "How do I <verb> …?": a noun that looks like a verb stays as it is.
_VERBS = frozenset(
    """
    accept access accumulate activate adapt add adjust advance aggregate align allocate allow analyze append apply
    approximate arrange assemble assert assign associate attach average begin bind block bound broadcast build cache
    calculate call cancel capture cast center change check choose classify clean clear clip clone close cluster
    collapse collect combine compare compile complete compress compute concatenate configure confirm connect construct
    consume convert convolve copy count create crop cut deactivate decide declare decode decompose decompress decorate
    decrease decrypt define delete deregister derive describe deserialize detach detect determine differentiate
    disable discard disconnect discover dispatch display dissolve distribute divide download draw drop dump duplicate
    emit emulate enable encapsulate encode encrypt enforce ensure enumerate erase escape estimate evaluate examine
    exchange exclude execute expand export expose express extend extract factor factorize fetch fill filter finalize
    find finish fit flatten flip flush fold follow force forget fork format forward free freeze gather generate get
    give group guess handle hash help hide highlight identify ignore implement import improve include increase
    increment indicate infer inherit initialize insert inspect install instantiate integrate interpolate interpret
    intersect invert invoke issue iterate join keep kill launch limit link list listen load locate lock log look
    lookup lower make manage map mark mask match maximize measure merge minimize modify monitor move multiply name
    negate normalize notify obtain open optimize order override pack pad parse partition pass patch perform permute
    pick plot poll pop populate predict prepare preprocess prevent print process produce project prompt propagate
    protect provide prune pull push put quantize query quit quote raise randomize rank reach read rearrange rebuild
    receive recompute reconstruct record recover recreate redirect reduce refresh register release reload remove
    rename render reorder repeat replace report represent request require rescale reserve reset reshape resize resolve
    restore restrict resume retrieve retry reverse revert rewrite roll rotate round run sample save scale scan
    schedule search select send separate serialize serve set shift show shuffle shut sign simplify simulate skip slice
    smooth solve sort specify split squeeze stack standardize start stop store stream strip subtract sum summarize
    suppress swap switch symmetrize synchronize take tell terminate test throw tile toggle tokenize trace track train
    transfer transform translate transpose traverse trim truncate try turn unescape unfold uninstall unpack unregister
    unset unwrap update upgrade upload use validate verify view visit visualize wait walk warm warn watch wrap write
    yield zero zip
    """.split()
)
_GET = frozenset({"return", "yield", "give", "retrieve", "obtain", "fetch", "get"})
_TRUTH = re.compile(r"^(?:returns? )?(?:True|true) (?:if|when|iff) (?:and only if )?", re.I)
_CHECK = re.compile(
    r"^(?:check|checks|test|tests|determine|determines|return|returns|verify|verifies)?\s*(?:whether|if) ", re.I
)


def question(summary: str, choice: int) -> str | None:
    """A question whose answer is the thing that `summary` sums up; None where no template fits. `choice` picks one.

    >>> question("Returns the cosine of each element.", 0)
    'How do I get the cosine of each element?'
    """
    text = summary.rstrip(" .!:;")
    if not text or text.endswith("?") or ". " in text:
        return None
    if truth := _TRUTH.match(text) or _CHECK.match(text):
        frames = ("How do I check whether {}?", "how to check whether {}", "Is there a way to tell if {}?")
        return frames[choice % len(frames)].format(text[truth.end() :])
    first, _, rest = text.partition(" ")
    verb = imperative(first)
    if verb is None or not rest or re.match(r"of |manager |[\W\d]", rest):
        return None  # "List of axes", "Download manager", "Return 0 if …"
    frames = ("How do I {}?", "how to {}", "How can I {}?", "What can I use to {}?")
    if verb in _GET and choice % 2 == 0:
        verb = "get"
    return frames[choice % len(frames)].format(f"{verb} {rest}")


def imperative(word: str) -> str | None:
    """Base form of a verb that opens a summary ("Computes" → "compute"); None when it is not one that we know."""
    word = word.lower()
    if word in _VERBS or word == "return":
        return word
    stems = [word[:-1]] if word.endswith("s") else []
    stems += [word[:-2]] if word.endswith("es") else []
    stems += [word[:-3] + "y"] if word.endswith("ies") else []
    return next((s for s in stems if s in _VERBS or s == "return"), None)
