"""Whatever lies in a BIDS folder: each file is placed once or listed, and a case has only files of its own."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_moe.images.bids_names import BidsName, Filter
from nnunet_moe.layouts.bids import find_bids_cases
from nnunet_moe.layouts.found import LABEL
from nnunet_moe.layouts.listing import Listing

SUBJECTS, SESSIONS = ("sub-1", "sub-2", "sub-"), ("", "ses-1/", "ses-2/")
DATASETS = ("", "derivatives/a/", "derivatives/b/", "sourcedata/", "other/")
CHAINS = ("", "acq-a_", "run-1_", "run-02_", "acq-a_run-1_", "run-1_acq-a_", "ce-gd_", "acq-a_acq-a_", "x_")
KINDS = ("T1w", "FLAIR", "flair", "mask", "label-x_mask")
FILES = st.builds(
    lambda dataset, folder, session, subject, chain, kind, ending: (
        f"{dataset}{folder}/{session}anat/{subject}_{session.replace('/', '_')}{chain}{kind}{ending}"
    ),
    *map(st.sampled_from, (DATASETS, SUBJECTS[:2], SESSIONS, SUBJECTS, CHAINS, KINDS)),
    st.sampled_from((".nii.gz", ".nii.gz", ".nii", ".json", "")),
)
TEXTS = st.sampled_from(
    ("T1w", "acq-a_T1w", "run-1_T1w,T1w", "ce-gd_T1w", "FLAIR", "derivatives/a/T1w", "acq-a_run-1_FLAIR,FLAIR")
)
ROOT = Path("nowhere")


@settings(deadline=None, max_examples=100)
@given(st.sets(FILES, max_size=12), st.lists(TEXTS, min_size=1, max_size=3), st.sampled_from(("mask", "label-x_mask")))
def test_each_file_is_placed_once_or_listed_and_belongs_to_its_case(files, texts, label):
    filters = {f"M{number}": Filter(text, "-m ", derivatives=False) for number, text in enumerate(texts)}
    filters[LABEL] = Filter(label, "-l ", derivatives=True)
    cases, problems = find_bids_cases(Listing(ROOT, sorted(ROOT / file for file in files)), filters, [".nii.gz"])
    placed = [file for case in cases.values() for file in case.files]
    listed = [problem.file for problem in problems if problem.file.name != "dataset_description.json"]
    assert sorted([*placed, *listed]) == sorted(ROOT / file for file in files)
    for name, case in cases.items():
        assert case.images
        for modality, file in {**case.images, **({LABEL: case.label} if case.label else {})}.items():
            found = matched(file, filters[modality])
            assert found is not None and found.case == name and found.misplaced is None
            for other in filter(None, (matched(file, filters[modality]) for file in listed)):
                is_equal = (other.case, other.entities, other.ending) == (name, found.entities, found.ending)
                assert not is_equal or other.misplaced, "one of two files with equal names was chosen"


def matched(file: Path, by: Filter) -> BidsName | None:
    return by.match(file.relative_to(ROOT).as_posix())
