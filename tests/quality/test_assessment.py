"""How well an expected DSC tells the actual one: against counting by hand, scikit-learn and simulated cohorts."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from made_scores import cohort
from nnunet_moe.errors import FileError
from nnunet_moe.quality.assessment import area_under_roc, assess, found_at, within_subsets
from nnunet_moe.quality.calibration import ScoredRows
from nnunet_moe.quality.file import FILE, as_json, read_calibrations
from nnunet_moe.quality.label_calibration import calibrate_label, held_out
from nnunet_moe.quality.signals import AGREEMENT, SIGNALS


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_areas_are_those_of_scikit_learn(rng):
    failed, expected = rng.random(40) < 0.3, rng.integers(0, 10, 40) / 10
    assert area_under_roc(failed, expected) == pytest.approx(roc_auc_score(failed, -expected))
    false_alarms, found, _ = roc_curve(failed, -expected, drop_intermediate=False)
    for allowed in (0.0, 0.1, 0.5, 1.0):
        assert found_at(failed, expected, allowed) == pytest.approx(found[false_alarms <= allowed].max())


def test_without_a_failure_there_is_nothing_to_find():
    nothing = np.zeros(4, dtype=bool)
    assert math.isnan(area_under_roc(nothing, np.arange(4.0))) and math.isnan(found_at(nothing, np.arange(4.0), 0.1))


def test_the_correlation_is_within_subsets_and_a_constant_tells_nothing():
    """Between the subsets the order is right, and within both of them it is reversed."""
    dsc, codes = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9]), ["10"] * 3 + ["11"] * 3
    assert within_subsets(dsc, np.array([3, 2, 1, 9, 8, 7.0]), codes) == -1
    assert within_subsets(dsc, np.array([0.2] * 3 + [0.8] * 3), codes) == 0
    assert math.isnan(within_subsets(dsc[:2], dsc[:2], codes[:2]))


def test_an_assessment_counted_by_hand():
    dsc, expected = np.array([0.2, 0.6, 0.9, 0.4]), np.array([0.3, 0.6, 0.8, 0.7])
    low, high = np.array([0.1, 0.5, math.nan, 0.5]), np.array([0.5, 0.7, math.nan, 0.9])
    found = assess(dsc, expected, low, high, np.full(4, 0.5), codes=["10"] * 4, failure_dsc=0.5)
    assert found.mean_absolute_error == pytest.approx((0.1 + 0 + 0.1 + 0.3) / 4)
    assert found.error_of_subset_mean == pytest.approx((0.3 + 0.1 + 0.4 + 0.1) / 4)
    assert (found.coverage, found.width) == pytest.approx((2 / 3, (0.4 + 0.2 + 0.4) / 3))
    assert (found.segmentations, found.failures, found.auc, found.auc_of_subset_mean) == (4, 2, 0.75, 0.5)
    assert found.found_at_few_false_alarms == 0.5


def test_what_is_held_out_has_no_influence_on_what_is_expected_of_it():
    """The DSC of one patient may change: what is expected of it stays."""
    rows = cohort(7)
    is_first = np.array([patient == "p00" for patient in rows.patients])
    changed = ScoredRows(rows.patients, rows.codes, rows.signals, np.where(is_first, 0.01, rows.dsc))
    before, after = held_out(rows), held_out(changed)
    for name in ("expected", "low", "high", "subset_mean"):
        values = [getattr(each, name) for each in (before, after)]
        assert np.array_equal(values[0][is_first], values[1][is_first])
        assert not np.array_equal(values[0][~is_first], values[1][~is_first])
    assert held_out(rows.only(is_first)) is None


def test_a_single_modality_uses_the_fast_calibration_and_others_the_full_one_if_they_have_an_agreement():
    rows = cohort(8)
    single = np.array([code.count("1") == 1 for code in rows.codes])
    signals = {name: np.where(single & (name in AGREEMENT), np.nan, values) for name, values in rows.signals.items()}
    found = calibrate_label(ScoredRows(rows.patients, rows.codes, signals, rows.dsc))
    of_case = rows.of_row(0)
    without = {**of_case, **dict.fromkeys(AGREEMENT, math.nan)}
    assert found.expect("110", of_case) == found.by_level["full"].expect("110", of_case)
    assert found.expect("110", without) == found.expect("110", {name: of_case[name] for name in SIGNALS[:5]})
    assert found.expect("110", without) == found.by_level["fast"].expect("110", without)
    assert {residual.size for residual in found.by_level["full"].residuals} == {2}


def test_the_file_gives_back_the_calibrations_and_says_what_is_wrong_with_it(tmp_path):
    file, rows = tmp_path / FILE, cohort(6)
    assert read_calibrations(file, "A") == {}
    content = as_json({"A": {"lesion": calibrate_label(rows)}})
    file.write_text(json.dumps(content))
    assert read_calibrations(file, "A") == {"lesion": calibrate_label(rows)} and read_calibrations(file, "B") == {}
    for change, said in ((("version", 2), "version 2"), (("trainers", {"A": {"lesion": {}}}), "damaged")):
        file.write_text(json.dumps({**content, change[0]: change[1]}))
        with pytest.raises(FileError, match=said):
            read_calibrations(file, "A")
