"""Find the patient of each case, from the patterns of the file names or from a table."""

from collections.abc import Mapping

from nnunet_moe.commands.import_dataset.request import Request
from nnunet_moe.errors import SettingsError
from nnunet_moe.images.bids_names import SESSION, SUBJECT
from nnunet_moe.layouts.found import FoundCase
from nnunet_moe.patients import PATIENT, read_patients

_NAMES = (PATIENT, "subject", SUBJECT)
"""Names in braces that mean the patient if the user names nothing else."""


def patients_of_cases(request: Request, cases: Mapping[str, FoundCase]) -> dict[str, str]:
    """Return case -> patient; empty if the user named neither a table nor a name in braces.

    Raises:
        SettingsError: the table has no row for a case, or no pattern has the name in braces.
        FileError: the table cannot be read.
    """
    if request.patients is not None:
        patients = read_patients(request.patients, request.patient or PATIENT)
        if missing := [case for case in cases if case not in patients]:
            raise SettingsError(
                f"-patients {request.patients} has no row for {len(missing)} of {len(cases)} cases, such as "
                f"{missing[0]}. Add a row for each case, with the name that this command gives it."
            )
        return {case: patients[case] for case in cases}
    fields = next(iter(cases.values())).fields
    if request.patient is not None and request.patient not in fields:
        raise SettingsError(
            f"-patient {request.patient}: the {request.searched_by} identify a case by {', '.join(fields)}. Use one of "
            "these names, or a table with -patients."
        )
    name = request.patient or next((name for name in _NAMES if name in fields), None)
    if name is None:
        return {}
    patients = {case: found.fields[name] for case, found in cases.items()}
    if lacking := [case for case, patient in patients.items() if not patient]:
        raise SettingsError(
            f"-patient {name}: {lacking[0]} has no {name}. Each case needs a patient. Use another name, or a "
            "table with -patients."
        )
    return patients


def sessions_of_cases(cases: Mapping[str, FoundCase]) -> dict[str, str]:
    """Return case -> session of the cases of a BIDS dataset that have one."""
    return {name: case.fields[SESSION] for name, case in cases.items() if case.fields[SESSION]}
