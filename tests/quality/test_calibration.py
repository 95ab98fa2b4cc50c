"""The calibration against closed forms, other solvers, and simulated cohorts whose truth is known."""

import json
import math

import numpy as np
import pytest
from scipy.optimize import minimize

from made_scores import CODES, cohort
from nnunet_moe.quality.calibration import (
    MIN_PATIENTS,
    Calibration,
    ScoredRows,
    calibrate,
)
from nnunet_moe.quality.intervals import interval, reached_level
from nnunet_moe.quality.regression import fit, subset_means
from nnunet_moe.quality.signals import COMPONENTS, FAST, OF_PROBABILITIES, SIGNALS, SIZE


def test_without_signals_the_fit_is_the_mean_of_each_subset_and_of_all_rows_for_another():
    found = subset_means(["10", "10", "01"], np.array([0.2, 0.4, 0.9]))
    assert [found.expected(code, {}) for code in ("10", "01", "11")] == pytest.approx([0.3, 0.9, 0.5])


def test_the_fit_is_the_ridge_regression_whose_weights_have_the_sign_of_their_signal():
    """Solved again by a general minimizer, on the formula as it is written."""
    rng = np.random.default_rng(1)
    codes = [CODES[number % 3] for number in range(30)]
    signals = {name: rng.random(30) for name in OF_PROBABILITIES}
    dsc = 0.5 * signals["expected_dice"] + 0.3 * signals["entropy_inside"] + 0.1 * rng.random(30)
    different = sorted(CODES)
    scaled = {name: (values - values.mean()) / values.std() for name, values in signals.items()}

    def cost(x):
        offsets = dict(zip(different, x[1:4], strict=True))
        expected = [
            x[0] + offsets[code] + sum(w * scaled[name][row] for name, w in zip(scaled, x[4:], strict=True))
            for row, code in enumerate(codes)
        ]
        return ((dsc - expected) ** 2).sum() + (x[1:] ** 2).sum()

    bounds = [(None, None)] * 4 + [(0, None), (None, 0), (None, 0)]
    wanted = minimize(cost, np.zeros(7), bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10}).x
    found = fit(codes, signals, dsc)
    assert [found.offsets[code] for code in different] == pytest.approx(wanted[1:4], abs=1e-5)
    weights = [found.weights[name] * signals[name].std() for name in OF_PROBABILITIES]
    assert weights == pytest.approx(wanted[4:], abs=1e-5)
    assert weights[1] == 0  # more entropy went with a higher DSC here, which the fit must not believe


def test_more_certainty_never_lowers_the_expected_dsc():
    found = calibrate(cohort(8), "full")
    usual = {name: 0.5 for name in SIGNALS}
    for name, step in (("expected_dice", 0.1), ("entropy_inside", -0.1), ("least_agreement", 0.1)):
        changed = {**usual, name: usual[name] + step}
        assert found.expect("110", changed).dsc >= found.expect("110", usual).dsc


def test_the_interval_is_the_weighted_quantile_of_residuals_with_one_share_for_the_new_patient_at_infinity():
    """Nine patients with one row each and 90 %: the ninth of ten shares, which is the largest residual."""
    residuals = np.arange(1, 10) / 100
    patients = list(range(9))
    assert interval(np.full(9, 0.5), residuals, patients, 0.9) == pytest.approx((0.41, 0.59))
    assert interval(np.full(9, 0.5), residuals, patients, 0.8) == pytest.approx((0.42, 0.58))
    assert interval(np.full(9, 0.97), residuals, patients, 0.9) == pytest.approx((0.88, 1))
    # a patient with many rows has no more weight than one with a single row
    many = np.concatenate([residuals, np.full(20, 0.01)])
    assert interval(np.full(29, 0.5), many, [*patients, *[0] * 20], 0.9) == pytest.approx((0.41, 0.59))


@pytest.mark.parametrize(("num_patients", "level"), [(5, 5 / 6), (8, 8 / 9), (9, 0.9), (100, 0.9)])
def test_few_patients_lower_the_level(num_patients, level):
    assert reached_level(0.9, num_patients) == level


@pytest.mark.parametrize("num_patients", [6, 12])
def test_intervals_hold_the_dsc_of_new_patients_as_often_as_promised_for_each_number_of_modalities(num_patients):
    """Over simulated cohorts, with two visits per patient, whose errors belong together."""
    hits: dict[int, list[bool]] = {1: [], 2: []}
    for seed in range(25):
        rows = cohort(num_patients + 1, seed, visits=2)
        is_new = np.array([patient == "p00" for patient in rows.patients])
        found, new = calibrate(rows.only(~is_new), "fast"), rows.only(is_new)
        for row, code in enumerate(new.codes):
            expected = found.expect(code, new.of_row(row))
            hits[code.count("1")].append(expected.low <= new.dsc[row] <= expected.high)
    wanted = reached_level(0.9, num_patients)
    for of_size in hits.values():
        assert np.mean(of_size) > wanted - 0.08


def test_signals_that_tell_the_dsc_are_used_and_their_error_is_smaller_than_that_of_the_mean():
    found = calibrate(cohort(10), "fast")
    assert found.fit.weights["expected_dice"] > 0
    assert found.errors["expected Dice"] < 0.5 * found.errors["subset mean"]


def test_signals_that_tell_nothing_leave_the_mean_of_the_subset():
    rows = cohort(10)
    useless = ScoredRows(rows.patients, rows.codes, rows.signals, np.random.default_rng(5).random(len(rows.codes)))
    found = calibrate(useless, "fast")
    for code in CODES:
        is_of = np.array([each == code for each in rows.codes])
        assert found.expect(code, rows.of_row(0)).dsc == pytest.approx(useless.dsc[is_of].mean())


def test_with_too_few_patients_only_the_mean_of_the_subset_is_known():
    rows = cohort(MIN_PATIENTS - 1, visits=3)
    found = calibrate(rows, "fast")
    expected = found.expect("100", rows.of_row(1))
    assert found.is_fallback and math.isnan(expected.low) and math.isnan(expected.high) and math.isnan(found.level)
    assert expected.dsc == pytest.approx(rows.dsc[np.array(rows.codes) == "100"].mean())


def test_residuals_belong_to_patients_that_the_fit_has_not_seen():
    """Without a patient, its fold's fit is that of all other rows, so no row of it, in any code, has an influence."""
    rows = cohort(7, visits=2)
    found = calibrate(rows, "fast")
    for residual in found.residuals:
        others = rows.only(np.array(rows.patients) != f"p{residual.patient:02d}")
        again = fit(others.codes, {name: others.signals[name] for name in found.fit.weights}, others.dsc)
        assert found.fits_out_of_fold[residual.fit] == again


def test_a_case_far_outside_of_validation_is_flagged_with_the_signal():
    rows = cohort(8)
    found = calibrate(rows, "fast")
    assert all(not found.expect(code, rows.of_row(row)).unusual for row, code in enumerate(rows.codes))
    huge = {**rows.of_row(0), SIZE: 1e6}
    assert found.expect("100", huge).unusual == (SIZE,)
    assert found.expect("100", {**huge, COMPONENTS: 500}).unusual == (SIZE, COMPONENTS)


def test_a_subset_that_was_not_scored_is_flagged():
    rows = cohort(8)
    assert calibrate(rows, "fast").expect("111", rows.of_row(0)).unusual == ("modalities",)


def test_a_calibration_is_json_and_says_the_same_after_it_was_read():
    rows = cohort(7)
    found = calibrate(rows, "full")
    read = Calibration.from_json(json.loads(json.dumps(found.as_json())))
    for row, code in enumerate(rows.codes):
        assert read.expect(code, rows.of_row(row)) == found.expect(code, rows.of_row(row))
    assert set(FAST) <= set(read.ranges)
