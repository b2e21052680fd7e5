"""The error shown to the user for invalid input: one line naming file, field and remedy."""

MAX_LINE = 4000


class InputError(Exception):
    """A mistake in the user's input; mistakes in our own code are assertions.

    `str(error)` is one line: `WHERE: PROBLEM; REMEDY`. Commands print it and exit with status 2. Unprintable characters
    (terminal control characters, lone surrogates) are escaped, and long lines are shortened.
    """

    def __init__(self, where: object, problem: str, remedy: str):
        """`where` names the file (and field, as `file: field`) or the option; `remedy` says what to do."""
        self.where, self.problem, self.remedy = str(where), problem, remedy
        line = " ".join(f"{where}: {problem}; {remedy}".split())
        if not line.isprintable():
            line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
        if len(line) > MAX_LINE:
            line = f"{line[: MAX_LINE // 2]} ... {line[-MAX_LINE // 2 :]}"
        super().__init__(line)

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str, str]]:
        """Rebuilds the error from its parts when it is passed between processes."""
        return type(self), (self.where, self.problem, self.remedy)
