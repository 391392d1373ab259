import pytest

from robustad.report.headline import findings, overview, verdict


def _with_auroc(evaluation, **values):
    copy = evaluation.model_copy(deep=True)
    for name, value in values.items():
        copy.conditions[name].metrics.auroc = value
    return copy


def test_names_the_kind_of_each_attack(evaluation) -> None:
    one = _with_auroc(
        evaluation, clean=0.9812, fgsm_probe=0.9071, fgsm=0.31, pgd10=0.0249, worst_case=0.02
    )
    assert verdict(one) == (
        "Clean AUROC 0.981; the probe attack of the study (fgsm_probe) at 8/255 leaves 0.907; "
        "the strongest direct attack on the score (pgd10) leaves 0.025; the worst case per image "
        "over all passes is 0.020, worse than guessing."
    )


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (0.7, "leaves 0.700"),
        (0.9, "raises it to 0.900"),
        (0.80004, "changes nothing (0.800)"),
    ],
)
def test_effect_follows_the_numbers(evaluation_of, value: float, says: str) -> None:
    one = _with_auroc(evaluation_of(attacks=("patch",)), clean=0.8, patch=value, worst_case=0.6)
    assert verdict(one) == (
        f"Clean AUROC 0.800; attack patch at 8/255 {says}; "
        "the worst case per image over all passes is 0.600."
    )


def test_without_attack_claims_nothing(evaluation_of) -> None:
    one = evaluation_of(attacks=())
    text = verdict(one)
    assert "nothing is known of its robustness" in text
    assert "leaves" not in text
    assert not [line for line in findings(one) if "worst case" in line or "under" in line]


def test_findings_quote_the_measured_rates(evaluation) -> None:
    one = evaluation.model_copy(deep=True)
    one.clean.metrics.fpr, one.clean.metrics.fnr = 0.05, 0.125
    worst = one.conditions["worst_case"].metrics
    worst.fpr, worst.fnr = 0.9, 1.0
    one.clean.metrics.aupro, one.conditions["fgsm"].metrics.aupro = 0.85, 0.1
    one.clean.flag_rate, one.conditions["pgd10"].flag_rate = 0.04, 0.01
    one.conditions["pgd10"].flag_auroc = 0.21
    text = findings(one)
    assert text[0] == (
        "At the threshold fixed on clean images 5.0% of the normal images are called anomalous "
        "and 12.5% of the anomalous ones normal; in the worst case 90.0% and 100.0%."
    )
    assert "Localisation: AUPRO 0.850 clean, 0.100 at its lowest (fgsm)." in text
    assert text[-1] == (
        "The entropy flag defers 4.0% of the clean images and 1.0% of those under pgd10; as a "
        "detector of that attack, entropy has AUROC 0.210, worse than guessing."
    )
    after = one.calibration.after
    assert f"to {after.ece_positive:.3f} and" in text[-2]
    assert f"to {after.nll:.3f}." in text[-2]
    assert "(Platt), fitted on 11 other images," in text[-2]


def test_trivial_f1_is_called_so_only_where_it_is(evaluation_of) -> None:
    one = evaluation_of(n=20)  # 24 of 44 anomalous: floor 48 / 68
    worst = one.conditions["worst_case"].metrics
    worst.f1_max = 48 / 68
    [line] = [line for line in findings(one) if "F1" in line]
    assert line.startswith("Worst-case F1-max is 0.706; calling every image anomalous gets 0.706")
    worst.f1_max = 0.75
    assert not [line for line in findings(one) if "F1" in line]


def test_overview_spans_the_evaluations(evaluation_of) -> None:
    a = _with_auroc(evaluation_of(category="cloth"), clean=0.9, worst_case=0.2)
    b = _with_auroc(evaluation_of(category="tray"), clean=1.0, worst_case=0.1)
    c = evaluation_of(method="patchguard", attacks=())
    assert overview([a, b]) == (
        "anomaly_dino: clean AUROC 0.950 on average (0.900 to 1.000) over 2 evaluations; in the "
        "worst case per image 0.150 on average (0.100 to 0.200), highest for surfaces / cloth, "
        "lowest for surfaces / tray."
    )
    assert overview([a, c]).startswith("anomaly_dino: clean AUROC 0.900 over 1 evaluation; in")
    assert overview([a, c]).endswith(
        f"patchguard: clean AUROC {c.clean.metrics.auroc:.3f} over 1 evaluation."
    )
