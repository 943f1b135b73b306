"""What can be wrong with a table of losses."""


class AnalysisError(ValueError):
    """The data or the request does not allow an answer; the message says what would."""
