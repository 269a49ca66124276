"""The error for the user's mistakes; any other exception is a bug in l2kd-ray."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, refused before anything starts (exit code 2). `str()` is what the user reads.

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
        super().__init__("\n".join(lines))

    def at(self, where: str, key: str = "") -> InputError:
        """The same error with the study (unless it names one) and with a key before its own key."""
        return InputError(
            self.problem,
            where=self.where or where,
            key=": ".join(part for part in (key, self.key) if part),
            got=self.got,
            expected=self.expected,
            fix=self.fix,
        )


def _short(value: object, limit: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
