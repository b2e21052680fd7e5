"""What a user reads when an input is wrong: one line naming file, field and remedy."""


class InputError(Exception):
    """A mistake in what the user gave us, never in our own code (that is an assertion).

    `str(error)` is one line: `WHERE: PROBLEM; REMEDY`. Commands print it and exit with status 2.
    """

    def __init__(self, where: object, problem: str, remedy: str):
        """`where` names the file (and field, as `file: field`) or the option; `remedy` says what to do."""
        self.where, self.problem, self.remedy = str(where), problem, remedy
        super().__init__(" ".join(f"{where}: {problem}; {remedy}".split()))
