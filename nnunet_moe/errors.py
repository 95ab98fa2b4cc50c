"""The errors a user can cause; the command line catches the base class and prints the message alone."""


class NnunetMoeError(Exception):
    """Base of all errors that are about the user's input, never about a fault of this package."""


class ModalityError(NnunetMoeError):
    """Images, channels or modality codes that cannot be used."""


class SettingsError(NnunetMoeError):
    """A setting in the plans, or an option of a command, that is unknown or out of range."""


class ModelError(NnunetMoeError):
    """A trained model that cannot do what is asked of it."""


class FileError(NnunetMoeError):
    """A file or folder of the user that cannot be read or written, or a disk that is full."""


class CommandError(NnunetMoeError):
    """A folder that cannot be used, or a command of nnU-Net that failed."""


class StudyError(NnunetMoeError):
    """A study whose jobs cannot be run."""


class JobsFailedError(StudyError):
    """Jobs of a study failed; others are done."""
