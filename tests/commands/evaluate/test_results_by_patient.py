"""Standard errors and tests are over patients if patients have several cases."""

import json
import math

import numpy as np
import pytest

from facts import facts
from nnunet_moe.commands.evaluate.analysis import EACH_CASE, EACH_CASE_AND_CODE, comparisons, means
from nnunet_moe.commands.evaluate.evaluate import _patients
from nnunet_moe.commands.evaluate.metrics import METRICS
from nnunet_moe.commands.evaluate.request import Request
from nnunet_moe.commands.evaluate.results import Results
from nnunet_moe.commands.evaluate.tables import code_table
from nnunet_moe.commands.evaluate.verdict import verdict
from nnunet_moe.commands.study.results import StudyResults
from nnunet_moe.errors import SettingsError
from nnunet_moe.modalities.codes import all_codes, code_text
from nnunet_moe.models.choice import ModelsChoice

NAMES = ("T1w", "FLAIR")
OURS, BASELINE = "nnUNetTrainerMoESD", "nnUNetTrainerModalityDropout"
CODES = all_codes(2)


def rows_of(trainer: str, scores: dict[str, float]) -> list[dict]:
    """Rows of cases with one DSC for all codes."""
    return [
        {"trainer": trainer, "fold": "0", "case": case, "code": code_text(code, NAMES), "label": "lesion"}
        | dict.fromkeys(METRICS, 0.5)
        | {"dsc": dsc, "configuration": "3d_fullres", "failure": ""}
        for code in CODES
        for case, dsc in scores.items()
    ]


def made(scores: dict[str, dict[str, float]], patients=None) -> Results:
    rows = [row for trainer, of_cases in scores.items() for row in rows_of(trainer, of_cases)]
    options = {"modalities": NAMES, "codes": CODES, "trainers": tuple(scores), "dedicated": (), "labels": ("lesion",)}
    return Results(rows, **options, patients=patients)


SCORES = {
    OURS: {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.4, "e": 0.6},
    BASELINE: dict(zip("abcde", [0.5] * 5, strict=True)),
}
PATIENTS = {"a": "P", "b": "P", "c": "P", "d": "Q"}
"""e is a separate patient."""


def test_the_mean_is_over_cases_and_its_error_over_patients():
    mean = made(SCORES, PATIENTS).mean(OURS, CODES[0], "lesion", "dsc")
    assert (mean.mean, mean.cases) == (pytest.approx(0.68), 5)
    rests = np.array([2.4 - 3 * 0.68, 0.4 - 0.68, 0.6 - 0.68])  # of the sums of P, Q and e
    assert mean.standard_error == pytest.approx(math.sqrt(3 / 2 * (rests**2).sum()) / 5)


def test_repeated_cases_of_a_patient_change_neither_the_error_nor_the_test():
    once = {"a": 0.9, "b": 0.8, "c": 0.3, "d": 0.4, "e": 0.6, "f": 0.75}
    other = {"a": 0.5, "b": 0.7, "c": 0.35, "d": 0.2, "e": 0.1, "f": 0.71}
    apart = made({OURS: once, BASELINE: other})
    repeated = [{f"{case}{visit}": dsc for case, dsc in each.items() for visit in range(3)} for each in (once, other)]
    by_patient = made(dict(zip((OURS, BASELINE), repeated, strict=True)), {case: case[0] for case in repeated[0]})
    for code in (*CODES, None):
        first, second = (results.mean(OURS, code, "lesion", "dsc") for results in (apart, by_patient))
        assert (second.mean, second.standard_error) == pytest.approx((first.mean, first.standard_error))
        assert second.cases == 3 * first.cases
    expected, found = (comparisons(results).set_index(["metric", "code"]) for results in (apart, by_patient))
    assert found.index.equals(expected.index)
    for column in ("pairs", "mean_difference", "median_difference", "effect_size", "p", "p_holm"):
        assert found[column].to_numpy(dtype=float) == pytest.approx(expected[column].to_numpy(dtype=float), nan_ok=True)
    ignored = comparisons(made(dict(zip((OURS, BASELINE), repeated, strict=True)))).set_index(["metric", "code"])
    assert ignored.loc[("dsc", EACH_CASE), "p"] < found.loc[("dsc", EACH_CASE), "p"] / 40, "as if each were a patient"
    nested = [means(results).set_index("metric").loc["more_was_worse"] for results in (apart, by_patient)]
    assert nested[0]["standard_error"].tolist() == pytest.approx(nested[1]["standard_error"].tolist())


def test_pairs_are_patients_with_the_mean_of_their_cases():
    compared = comparisons(made(SCORES, PATIENTS)).set_index(["metric", "code"]).loc["dsc"]
    assert compared.loc[["T1w", "FLAIR", EACH_CASE, EACH_CASE_AND_CODE], "pairs"].tolist() == [3, 3, 3, 9]
    assert compared.loc["T1w", "mean_difference"] == pytest.approx((0.3 - 0.1 + 0.1) / 3)
    assert compared.loc["T1w", "median_difference"] == pytest.approx(0.1)


def test_the_report_says_it():
    results = made(SCORES, PATIENTS)
    text = " ".join(code_table(results, "lesion").notes)
    assert "Mean over cases ± standard error over patients" in text and "5 cases belong to 3 patients" in text
    assert "(3 patients, p =" in verdict(results, comparisons(results))


@pytest.mark.parametrize("patients", [None, {}, {"a": "P", "b": "Q"}, {"a": "P", "x": "P"}])
def test_with_one_case_for_each_patient_nothing_changes(patients):
    results, plain = made(SCORES, patients), made(SCORES)
    assert results.patients == {} and results.unit == "case"
    assert results.mean(OURS, CODES[0], "lesion", "dsc") == plain.mean(OURS, CODES[0], "lesion", "dsc")
    assert "Mean ± standard error over cases" in code_table(results, "lesion").notes[0]


def test_a_study_goes_by_patient_too():
    rows = [row for seed in (0, 1) for row in rows_of(f"{OURS}_s{seed}", SCORES[OURS])]
    options = {"modalities": NAMES, "codes": CODES, "dedicated": (), "labels": ("lesion",), "patients": PATIENTS}
    study = StudyResults(rows, seeds={OURS: [f"{OURS}_s0", f"{OURS}_s1"]}, **options)
    expected = made(SCORES, PATIENTS).mean(OURS, CODES[0], "lesion", "dsc").standard_error
    assert study.mean(OURS, CODES[0], "lesion", "dsc").standard_error == pytest.approx(expected)


def test_the_patients_come_from_the_dataset_or_a_table(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    raw = tmp_path / "Dataset001_A"
    for folder in (raw / "imagesTs", tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    (raw / "patients.csv").write_text("case,patient\na,P\n")
    (tmp_path / "table.csv").write_text("case,patient\na,Q\n")

    def found(images=None, patients=None, cases=("a",)):
        models = ModelsChoice(dataset="1", configuration="3d_fullres", trainers=(OURS,))
        request = Request(models=models, out=tmp_path / "out", images=images, labels=images, patients=patients)
        return _patients(request, raw.name, cases)

    assert found() == found(raw / "imagesTs") == ({"a": "P"}, [])
    assert found(tmp_path / "elsewhere") == ({}, []), "other cases may have the same names"
    assert found(tmp_path / "elsewhere", tmp_path / "table.csv") == ({"a": "Q"}, [])
    for table, (_, notes) in {
        "patients.csv of Dataset001_A": found(cases=("a", "b", "c")),
        f"-patients {tmp_path / 'table.csv'}": found(raw / "imagesTs", tmp_path / "table.csv", ("b", "a", "c")),
    }.items():
        assert notes == [f"{table} has no row for b, c. Each of them counts as a separate patient."]
    with pytest.raises(
        SettingsError, match=facts("table.csv", "any of the 7 cases", "names a;", "1, 2, 3, 4, 5 and 2")
    ):
        found(patients=tmp_path / "table.csv", cases=tuple("7654321"))
    assert found(cases=("b",))[1] == [
        "patients.csv of Dataset001_A has no row for b. Each of them counts as a separate patient."
    ]
    monkeypatch.delenv("nnUNet_raw")
    assert json.dumps(found()) == "[{}, []]"
