"""The error for the user's mistakes; any other exception is a bug in l2kd-ray."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

# Names that end like a secret's: api_key, hfToken, X-Amz-Signature, AWSAccessKeyId; not tokenizer.
_SECRET = r"(?i:key|token|passw(?:or)?d|secret|credential|signature|sig)s?(?![a-z])"
SECRET_NAME = re.compile(_SECRET)
_IN_A_URL = (
    re.compile(
        r"(?<=https://)[^/?\s@]+(?=@)|(?<=http://)[^/?\s@]+(?=@)"
    ),  # a user is a token there
    # `user:password@`; a password may hold a slash, but `host:80/a@b` has none.
    re.compile(r"(?<=://)[^/?\s@:]*:(?!\d+/)[^?\s@]+(?=@)"),
    re.compile(rf"(?<=[?&;#])(?P<name>[^=&;#\s]*{_SECRET}[^=&;#\s]*=)[^&;#\s'\"]+"),
)


def masked(text: str) -> str:
    """The text with `***` for each password, key and token in a URL."""
    for pattern in _IN_A_URL:
        text = pattern.sub(lambda hit: f"{hit.groupdict().get('name', '')}***", text)
    return text


def refuse_credentials(url: str, key: str) -> None:
    """Raise InputError for a URL with credentials, which reports and logs would publish."""
    if masked(url) != url:
        raise InputError(
            "credentials in a URL end up in study.yaml, in reports and in logs",
            key=key,
            got=url,
            expected="a URL without user, password, key or token",
            fix="give them by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), a "
            "profile (AWS_PROFILE) or the machine's role; then revoke these",
        )


class InputError(ValueError):
    """Bad input, refused before anything starts (exit code 2). `str()` is what the user reads.

    Credentials in URLs are masked in it.

    `where` is the file (and line) or the study; `key` the dotted key in it; `got` the value found;
    `expected` what would be valid; `fix` what to change.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: str = "",
        key: str = "",
        got: object = None,
        expected: str = "",
        fix: str = "",
    ) -> None:
        self.problem, self.where, self.key = problem, where, key
        self.got, self.expected, self.fix = got, expected, fix
        location = ": ".join(part for part in (where, key) if part)
        lines = [f"{location}: {problem}" if location else problem]
        if got is not None:
            lines.append(f"  got:      {_short(got)}")
        if expected:
            lines.append(f"  expected: {expected}")
        if fix:
            lines.append(f"  fix:      {fix}")
        super().__init__(masked("\n".join(lines)))

    def at(self, where: str, key: str = "") -> InputError:
        """The same error with the study (unless it names one) and with a key before its own key."""
        keys = ": ".join(part for part in (key, self.key) if part)
        return self.replaced(where=self.where or where, key=keys)

    def replaced(self, **parts: Any) -> InputError:
        """The same error with some parts (arguments of `InputError`) replaced."""
        return InputError(**{**vars(self), **parts})


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """A question with the name that is nearest to a wrong one; "" where none is near."""
    known = {one.lower(): one for one in names}
    near = get_close_matches(str(name).lower(), known, n=1)
    return f"did you mean {known[near[0]]}?" if near else ""


def _short(value: object, limit: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
