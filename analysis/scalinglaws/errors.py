"""The error of the analysis."""


class AnalysisError(ValueError):
    """The data or the request does not allow an answer; the message says what to change."""
