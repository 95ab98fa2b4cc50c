"""The errors that a user can cause; the command line catches the base class and prints only the message."""


class NnunetMoeError(Exception):
    """The base class of all errors about the user's input; faults of this package raise other exceptions."""


class ModalityError(NnunetMoeError):
    """Images, channels, label sets or modality codes cannot be used."""


class SettingsError(NnunetMoeError):
    """A setting in the plans, or an option of a command, is unknown or out of range."""


class ModelError(NnunetMoeError):
    """A model cannot be used for the requested task."""


class OutOfMemoryError(NnunetMoeError):
    """The memory of a device does not suffice for a case."""


class FileError(NnunetMoeError):
    """A file or folder of the user cannot be read or written, or the disk is full."""


class CommandError(NnunetMoeError):
    """A folder cannot be used, or a command of nnU-Net failed."""


class StudyError(NnunetMoeError):
    """The jobs of a study cannot be run."""


class JobsFailedError(StudyError):
    """Some jobs of a study failed; the other jobs are finished."""
