"""What a user reads when an input is wrong: one line naming file, field and remedy."""

MAX_LINE = 4000


class InputError(Exception):
    """A mistake in what the user gave us, never in our own code (that is an assertion).

    `str(error)` is one line: `WHERE: PROBLEM; REMEDY`. Commands print it and exit with status 2. What cannot be printed
    (control characters of a terminal, halves of surrogate pairs) is escaped, and a long line is shortened.
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
