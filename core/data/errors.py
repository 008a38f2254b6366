"""What goes wrong with files of data."""


class DataError(Exception):
    """A data file is missing, damaged or not of the expected form; the message names it and says what to do."""


class MissingSplit(DataError):
    """A data set lacks one of its splits altogether."""
