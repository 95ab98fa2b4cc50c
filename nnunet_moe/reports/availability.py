"""Show which modalities the cases of a dataset have."""

from nnunet_moe.modalities.availability import Availability
from nnunet_moe.reports.table import markdown_table


def availability_tables(availability: Availability) -> str:
    """Count the cases by code and by modality, as Markdown tables."""
    by_code = [(code, str(count)) for code, count in availability.by_code()]
    num_cases = len(availability.codes)
    by_modality = [
        (name, f"{having} of {num_cases}", str(num_zeros)) for name, having, num_zeros in availability.by_modality()
    ]
    return "\n\n".join(
        (
            markdown_table(("modalities", "cases"), by_code),
            markdown_table(("modality", "cases that have it", "files of one value"), by_modality),
        )
    )
