import threading
import time

import numpy as np
import pytest

from robustad.errors import InputError
from robustad.serve.batcher import Batcher, refusal_of
from robustad.serve.limits import Limits, Refusal


@pytest.fixture
def images(make_images):
    return [image / np.float32(255) for image in make_images(6, 48, 64, seed=3)]


@pytest.fixture
def build(model):
    made = []

    def make(observe=lambda images, seconds: None, **options):
        made.append(Batcher(model, Limits(**options), observe))
        return made[-1]

    yield make
    for batcher in made:
        batcher.close()


class Held:
    """A model that waits until it is let go, and says what it was asked for."""

    def __init__(self, model, monkeypatch):
        self.go, self.sizes = threading.Event(), []
        self.began = threading.Event()
        inside = False  # `predict` calls `run`, which is not to be counted then
        plain_predict, plain_run = model.predict, model.run

        def predict(images, **options):
            nonlocal inside
            self.sizes.append(len(images))
            self.began.set()
            self.go.wait(30)
            inside = True
            try:
                return plain_predict(images, **options)
            finally:
                inside = False

        def run(x, *rest):
            if inside:
                return plain_run(x, *rest)
            self.sizes.append(x.shape)
            self.began.set()
            self.go.wait(30)
            return plain_run(x, *rest)

        monkeypatch.setattr(model, "predict", predict)
        monkeypatch.setattr(model, "run", run)


@pytest.fixture
def held(model, monkeypatch):
    return Held(model, monkeypatch)


def test_scores_are_the_models(build, model, images):
    expected = model.predict(images)
    batcher = build()
    answers = [batcher.submit([image], prepared=False) for image in images]
    for i, answer in enumerate(answers):
        found = answer.result(30)
        assert found.score[0] == pytest.approx(expected.score[i], abs=1e-6)
        assert found.verdict == [expected.verdict[i]]
        assert found.entropy[0] == pytest.approx(expected.entropy[i], abs=1e-5)
        np.testing.assert_allclose(found.anomaly_map[0], expected.anomaly_map[i], atol=1e-5)
        np.testing.assert_allclose(
            found.patch_scores[0], expected.patch_scores[i].ravel(), atol=1e-5
        )


def test_prepared_tensors(build, model, make_images):
    x = np.stack(
        [image.transpose(2, 0, 1) / np.float32(255) for image in make_images(5, 48, 48, 1)]
    )
    expected = model.run(x)
    found = build(batch=2).submit(list(x), prepared=True).result(30)
    np.testing.assert_allclose(found.score, expected["score"], atol=1e-6)
    np.testing.assert_allclose(found.probability, expected["probability"], atol=1e-6)
    np.testing.assert_allclose(np.stack(found.patch_scores), expected["patch_scores"], atol=1e-5)
    assert found.verdict == model.policy.decide(expected["probability"])


def test_what_waits_is_scored_together(build, held, images):
    seen = []
    batcher = build(batch=4, observe=lambda count, seconds: seen.append(count))
    first = batcher.submit(images[:1], prepared=False)
    assert held.began.wait(30)
    rest = [batcher.submit([image], prepared=False) for image in images]
    assert batcher.waiting == 6
    held.go.set()
    for answer in (first, *rest):
        answer.result(30)
    assert held.sizes == [1, 4, 2]
    assert batcher.waiting == 0
    batcher.close()
    assert seen == [1, 4, 2]


def test_only_what_fits_together_is(build, held, images):
    x = np.stack([image[:, :48].transpose(2, 0, 1) for image in images])
    batcher = build(batch=8)
    answers = [batcher.submit(images[:1], prepared=False)]
    assert held.began.wait(30)
    answers.append(batcher.submit(list(x[:2]), prepared=True))
    answers.append(batcher.submit(list(x[2:3]), prepared=True))
    answers.append(batcher.submit(list(x[:, :, :, :40][:1]), prepared=True))
    answers.append(batcher.submit(images[:2], prepared=False))
    held.go.set()
    for answer in answers:
        answer.result(30)
    assert held.sizes == [1, (3, 3, 48, 48), (1, 3, 48, 40), 2]


def test_a_full_queue_refuses(build, held, images):
    batcher = build(queue=3, delay=0.0)
    first = batcher.submit(images[:1], prepared=False)
    assert held.began.wait(30)
    second = batcher.submit(images[:2], prepared=False)
    with pytest.raises(Refusal, match="2 images wait, at most 3 can; try again") as caught:
        batcher.submit(images[:2], prepared=False)
    assert (caught.value.status, caught.value.retry_after) == (503, 1)
    third = batcher.submit(images[:1], prepared=False)
    held.go.set()
    assert [len(answer.result(30).score) for answer in (first, second, third)] == [1, 2, 1]


def test_what_was_given_up_is_not_scored(build, held, images):
    batcher = build()
    first = batcher.submit(images[:1], prepared=False)
    assert held.began.wait(30)
    second = batcher.submit(images[:2], prepared=False)
    third = batcher.submit(images[:3], prepared=False)
    assert second.cancel()
    held.go.set()
    first.result(30), third.result(30)
    assert held.sizes == [1, 3]


def test_one_bad_request_costs_no_other(build, held, images):
    strip = np.zeros((2, 60000, 3), np.float32)
    batcher = build()
    first = batcher.submit(images[:1], prepared=False)
    assert held.began.wait(30)
    answers = [batcher.submit([image], prepared=False) for image in (images[1], strip, images[2])]
    held.go.set()
    first.result(30)
    assert len(answers[0].result(30).score) == len(answers[2].result(30).score) == 1
    with pytest.raises(InputError, match="would be resized"):
        answers[1].result(30)


def test_closing_finishes_what_waits(build, held, images):
    batcher = build(batch=1)
    answers = [batcher.submit([image], prepared=False) for image in images[:3]]
    assert held.began.wait(30)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while not batcher._closed:
        time.sleep(0.001)
    with pytest.raises(Refusal, match="the service is stopping"):
        batcher.submit(images[:1], prepared=False)
    held.go.set()
    closing.join(30)
    assert all(len(answer.result(0).score) == 1 for answer in answers)


def test_what_errors_become():
    assert refusal_of(InputError("x: wrong")).status == 400
    assert str(refusal_of(InputError("x: wrong"))) == "x: wrong"
    inner = refusal_of(RuntimeError("secret path"))
    assert inner.status == 500
    assert "secret" not in str(inner)
    again = Refusal(503, "full")
    assert refusal_of(again) is again


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"pixels": -1}, {"delay": -1}, {"seconds": 0.0}])
def test_limits_are_positive(wrong):
    [name] = wrong
    with pytest.raises(InputError, match=rf"{name}: expected a positive number, got"):
        Limits(**wrong)
