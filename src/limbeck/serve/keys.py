"""Who may ask, and how much: API keys, and an allowance for each."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from limbeck.errors import ConfigError

ENVIRONMENT = "LIMBECK_API_KEYS"  # keys, with commas or spaces between them
_LOOK_SECONDS = 1.0  # how often a file is looked at
_REMEMBERED = 10_000  # allowances at a time; whoever asked longest ago is forgotten, and begins with a full one

log = logging.getLogger("limbeck.serve")


class Keys:
    """API keys from a file or the environment; without either, everyone may ask.

    A file is read again when it changes. If it is gone by then, cannot be read or holds no key, the keys that were read
    before stay, so that a slip opens nothing and locks nobody out.
    """

    def __init__(
        self, file: Path | None = None, environment: str | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Args: file: one key a line, # begins a comment; environment: what `ENVIRONMENT` holds; clock: seconds.

        Raises ConfigError: a file that cannot be read, or without a key.
        """
        self._file, self._clock = file, clock
        self._fixed = _digests((environment or "").replace(",", " ").split())
        self._of_file: dict[bytes, str] = {}
        self._seen: tuple[int, ...] | None = None
        self._looked = clock()
        if file is not None:
            try:
                self._read(file)
            except (OSError, ValueError) as error:
                raise ConfigError(f"no keys in {file} ({error}): write one key a line") from None

    @property
    def needed(self) -> bool:
        """Whether a request needs a key."""
        return bool(self._fixed or self._of_file)

    def owner(self, authorization: str | None) -> str | None:
        """Who sends this header ("Bearer KEY"): a name that does not give the key away; None = nobody who may ask."""
        self._look()
        scheme, _, key = (authorization or "").partition(" ")
        digest = hashlib.sha256(key.strip().encode(errors="replace")).digest()
        found = None
        # all of them, and digests instead of keys: the time tells neither which one nor how much of it was right
        for known, name in (self._fixed | self._of_file).items():
            if hmac.compare_digest(known, digest):
                found = name
        return found if scheme.lower() == "bearer" else None

    def _look(self) -> None:
        if self._file is None or self._clock() - self._looked < _LOOK_SECONDS:
            return
        self._looked = self._clock()
        try:
            if _stamp(self._file) != self._seen:
                self._read(self._file)
                log.info("API keys read again: %d", len(self._of_file))
        except (OSError, ValueError) as error:
            log.warning("API keys not read again, those from before stay: %s", type(error).__name__)

    def _read(self, file: Path) -> None:
        stamp = _stamp(file)
        lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
        self._seen = stamp
        keys = [line for line in lines if line]
        if not keys:
            raise ValueError("it holds no key")
        self._of_file = _digests(keys)


class Allowance:
    """So much a minute for each owner; what is not used is kept for up to a minute.

    A request may cost more than is left: then its owner waits until the debt is paid, so that no request is too large
    to ever pass.
    """

    def __init__(self, per_minute: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: per_minute: None = no limit; clock: seconds."""
        self._limit, self._clock = per_minute, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # owner → (what is left, when that was)

    def spend(self, owner: str, cost: float) -> float:
        """Take from what an owner has left. Returns 0.0, or the seconds to wait, when nothing was taken."""
        if self._limit is None:
            return 0.0
        now, per_second = self._clock(), self._limit / 60
        left, then = self._left.pop(owner, (self._limit, now))
        left = min(self._limit, left + (now - then) * per_second)
        takes = left > 0 and left >= min(cost, 1.0)
        self._left[owner] = (left - cost if takes else left, now)
        while len(self._left) > _REMEMBERED:
            self._left.popitem(last=False)
        return 0.0 if takes else (min(cost, 1.0) - left) / per_second


def _digests(keys: list[str]) -> dict[bytes, str]:
    found = (hashlib.sha256(key.encode()) for key in keys)
    return {each.digest(): each.hexdigest()[:12] for each in found}


def _stamp(file: Path) -> tuple[int, ...]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino
