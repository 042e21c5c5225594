"""Every error that limbeck raises on purpose. A message says what was expected, what came, and what to do.

LimbeckError
├── ConfigError     a recipe or an argument does not fit
│   └── ConditionError   a condition on the fields of documents
├── DataError       a source, a row or a text
├── TeacherError    the teacher cannot be loaded or reached, or answers nonsense
├── StoreError      the teacher store is torn, foreign or unreadable
├── ModelError      a backbone, tokenizer or bundle
│   └── TextError   a text that a model cannot encode
└── TrainingError   a run that cannot go on
"""


class LimbeckError(Exception):
    """Base of every error that limbeck raises on purpose; the command line prints it without a traceback."""


class ConfigError(LimbeckError):
    """A recipe or an argument does not fit."""


class ConditionError(ConfigError):
    """A condition on the fields of documents does not fit; `unquoted` is the message without what was asked."""

    def __init__(self, message: str, unquoted: str) -> None:
        """Both end with what to do."""
        super().__init__(message)
        self.unquoted = unquoted


class DataError(LimbeckError):
    """A source, a row or a text does not fit."""


class TeacherError(LimbeckError):
    """The teacher cannot be loaded or reached, or answers nonsense."""


class StoreError(LimbeckError):
    """The teacher store is torn, foreign or unreadable."""


class ModelError(LimbeckError):
    """A backbone, tokenizer or bundle does not fit."""


class TextError(ModelError):
    """A text cannot be encoded: `index` is its place among the texts given, `reason` what is wrong with it."""

    def __init__(self, index: int, reason: str) -> None:
        """The message is the text's number and the reason."""
        super().__init__(f"text {index} {reason}")
        self.index, self.reason = index, reason


class TrainingError(LimbeckError):
    """A run cannot go on."""
