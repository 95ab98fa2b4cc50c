"""The errors a user can cause; the command line catches the base class and prints the message alone."""


class NnunetMoeError(Exception):
    """Base of all errors that are about the user's input, never about a fault of this package."""


class ModalityError(NnunetMoeError):
    """Images, channels or modality codes that cannot be used."""


class SettingsError(NnunetMoeError):
    """A setting in the plans, or an option of a command, that is unknown or out of range."""


class ModelError(NnunetMoeError):
    """A trained model that cannot do what is asked of it."""
