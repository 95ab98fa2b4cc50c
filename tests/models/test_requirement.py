"""What a case must have, and how a case that does not have it is told."""

import pytest

from nnunet_moe.errors import ModalityError
from nnunet_moe.models.requirement import Requirement


@pytest.mark.parametrize(
    ("code", "names", "options", "message"),
    [
        (
            (1, 0),
            ("T1w", "T2w"),
            {"min_modalities": 2},
            "The case has only T1w. --min_modalities asks for 2 modalities.",
        ),
        ((0, 0), ("T1w", "T2w"), {}, "The case has no image. --min_modalities asks for 1 modality."),
        (
            (1, 0),
            ("", "T2w"),
            {"min_modalities": 2},
            "The case has only a modality without a name. --min_modalities asks for 2 modalities.",
        ),
        ((1, 0), ("", "T2w"), {"required": ("T2w",)}, "The case has a modality without a name, but not T2w. --require"),
    ],
)
def test_a_case_that_lacks_something_is_told_with_what_it_has(code, names, options, message):
    with pytest.raises(ModalityError) as error:
        Requirement(**options).check([bool(each) for each in code], names)
    assert str(error.value).startswith(message)


def test_a_case_that_has_enough_is_accepted():
    assert Requirement(required=("T2w",), min_modalities=1).check([False, True], ("T1w", "T2w")) is None
