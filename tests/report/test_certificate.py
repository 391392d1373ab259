import pytest

from robustad.certificates import Certification
from robustad.certificates.result import (
    AnglePoint,
    AttackedPoint,
    CertifiedImage,
    CertifiedPoint,
    ErrorRates,
    FeatureCertificate,
    MeasuredAngles,
)
from robustad.report import write_report
from robustad.report.certificate import certificate_section, write_certificate_report


def rates(fpr, fnr):
    return [ErrorRates(threshold=0.3, fpr=fpr, fnr=fnr)]


def made(*, attacked=True, violations=(), features=True, aurocs=(0.97, 0.9, 0.6, 0.0)):
    radii = [0.0, 16 / 255, 64 / 255, 200 / 255]
    images = [
        CertifiedImage(
            name=f"{i}.png", defect="good", label=i % 2, score=0.1 * i, draws=100,
            lower=[0.0] * 4, upper=[1.0, 1.0, 1.0, None],
        )
        for i in range(4)
    ]  # fmt: skip
    points = [
        CertifiedPoint(
            radius=radius,
            auroc=auroc,
            rates=rates(0.1 + place / 4, place / 3),
            abstained=4 if place == 3 else 0,
            attacked=AttackedPoint(
                auroc=0.97 - 0.01 * place,
                rates=rates(0.1, 0.05),
                scores=[0.1] * 4,
                chosen=["clean"] * 4,
                violations=[*violations] if place == 1 else [],
            )
            if attacked
            else None,
        )
        for place, (radius, auroc) in enumerate(zip(radii, aurocs, strict=True))
    ]
    certificate = None
    if features:
        certificate = FeatureCertificate(
            auroc=0.99,
            thresholds=[0.2],
            points=[
                AnglePoint(degrees=d, auroc=0.99 - 0.04 * d, rates=rates(0.02 * d, 0.01 * d))
                for d in (0.0, 5.0, 20.0)
            ],
            measured=[
                MeasuredAngles(
                    attack="pgd10", norm="linf", eps=1 / 255, median=3.0, p99=9.0, largest=22.0
                )
            ],
        )
    return Certification(
        model="a<b>.safetensors", sha256="0" * 64, dataset="folder", category="cookie",
        sigma=0.25, n=100, alpha=0.01, sides="one", simultaneous=False, test_draws=None,
        early=False, denoiser=None, seed=0, radii=radii, thresholds=[0.3],
        threshold_source="given", clean_auroc=0.98, base_auroc=0.99, images=images, points=points,
        attacks=["pgd_l2"] if attacked else [], features=certificate,
        settings={"robustad": "0.1.0", "command": "robustad certify a --data b"},
    )  # fmt: skip


def test_the_page_stands_alone_and_says_what_is_certified(tmp_path):
    path = write_certificate_report(made(), tmp_path / "new" / "r.html")
    text = path.read_text()
    assert text.count("<svg") == 3
    for part in (
        "a&lt;b&gt;.safetensors on folder / cookie",
        "Up to an l2 radius of 0.251 (64/255) no attack brings",
        "below 0.600",
        "No attack moved any score out of its certified interval.",
        "say nothing about it",
        "measured, not certified",
        "robustad certify a --data b",
    ):
        assert part in text, part
    assert "http:" not in text.replace("http://www.w3.org", "")
    assert "https:" not in text
    assert "<b>.safetensors" not in text
    assert write_certificate_report(made(), tmp_path / "again.html").read_text() == text


def test_without_attacks_and_angles(tmp_path):
    text = write_certificate_report(
        made(attacked=False, features=False), tmp_path / "r.html"
    ).read_text()
    assert text.count("<svg") == 2
    assert "only attacks can tell" in text
    assert "While features turn" not in text
    section = certificate_section(made(attacked=False))
    assert {row.attacked for row in section.rows} == {"\N{EN DASH}"}


def test_nothing_certified_and_violations_are_said_first():
    section = certificate_section(made(aurocs=(0.97, 0.4, 0.2, 0.0)))
    assert section.verdict.startswith("Nothing useful is certified")
    section = certificate_section(made(violations=["3.png"]))
    assert section.findings[0].startswith("1 attacked score left the certified interval")


def test_as_a_section_of_an_evaluations_report(tmp_path, evaluation):
    text = write_report(evaluation, tmp_path / "r.html", certification=made()).read_text()
    assert '<a href="#certificate">Certificate</a>' in text
    assert "What no attack can do" in text
    assert 'href="#certificate"' not in write_report(evaluation, tmp_path / "s.html").read_text()


@pytest.mark.parametrize("radius", [0.0, 0.25])
def test_a_single_radius_is_drawn_too(radius, tmp_path):
    one = made()
    one.points = [one.points[1].model_copy(update={"radius": radius})]
    one.radii = [radius]
    assert "<svg" in write_certificate_report(one, tmp_path / "r.html").read_text()
