import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustad.conformal import ConformalScores
from robustad.conformal.scores import evidence
from robustad.export.verdict import rank_share, verdicts
from robustad.runtime._verdicts import POLICY, VERDICTS, policy_numbers
from robustad.verdict import Policy, Verdict, binary_entropy

NOTHING = np.array([np.nan], np.float32)
# Few values, so that scores meet held-out ones, and p-values thresholds.
SCORES = st.sampled_from([np.float32(i) / np.float32(7) for i in range(-3, 11)])
PROBABILITIES = st.one_of(
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, float("nan")]),
    st.floats(0, 1, width=32),
)


def held_out(most):
    """One score, or several that are not all the same: others are refused."""
    several = st.lists(SCORES, min_size=1, max_size=most)
    return several.filter(lambda scores: len(scores) == 1 or len(set(scores)) > 1)


@st.composite
def cases(draw):
    """Scores, probabilities, held-out scores or none, and a policy with many ties."""
    size = draw(st.integers(1, 5))
    score = np.array(draw(st.lists(SCORES, min_size=size, max_size=size)), np.float32)
    probability = np.array(draw(st.lists(PROBABILITIES, min_size=size, max_size=size)), np.float32)
    conformal = None
    if draw(st.booleans()):
        anomalous = draw(st.none() | held_out(9))
        normal = draw(held_out(20))
        conformal = ConformalScores(normal, anomalous=anomalous)
    n = 1 if conformal is None else len(conformal)
    share = st.one_of(
        st.integers(1, n).map(lambda k: k / (n + 1)), st.floats(0.01, 0.99), st.just(0.05)
    )
    some = st.none() | share
    reject = draw(some)
    above = share.filter(lambda value: reject is not None and value > reject)
    entropies = st.floats(0.0, 0.69) | st.sampled_from(
        [float(binary_entropy(np.array(p))) for p in (0.5, 0.0)]
    )
    policy = Policy(
        threshold=draw(st.sampled_from([0.1, 0.25, 0.5, 0.9]) | st.floats(0.01, 0.99)),
        entropy_threshold=draw(st.none() | entropies),
        p_value_threshold=reject,
        p_value_defer=draw(st.none() | above) if reject is not None and reject < 0.9 else None,
        anomaly_threshold=draw(some),
        suspicion_threshold=draw(some),
    )
    return score, probability, conformal, policy


def inputs_of(score, probability, conformal, policy):
    normal = NOTHING if conformal is None else conformal.normal
    anomalous = NOTHING if conformal is None else conformal.anomalous
    scores = {
        "conformal_scores": normal,
        "conformal_anomalous": NOTHING if anomalous is None else anomalous,
    }
    return {"score": score, "probability": probability, **scores, **policy_numbers(policy)}


class Alone(torch.nn.Module):
    def forward(self, *arguments):
        return verdicts(*arguments)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """The verdict's part of the graph alone."""
    names = ["score", "probability", "conformal_scores", "conformal_anomalous", *POLICY]
    arguments = [torch.zeros(3) for _ in range(4)]
    arguments += [torch.tensor(0.5, dtype=torch.float64) for _ in POLICY]
    batch, n, m = (torch.export.Dim(name, min=1) for name in ("batch", "n", "m"))
    shapes = ({0: batch}, {0: batch}, {0: n}, {0: m}, *[None] * len(POLICY))
    program = torch.onnx.export(
        Alone().eval(), tuple(arguments), dynamo=True, verbose=False, input_names=names,
        output_names=["verdict"], dynamic_shapes=(shapes,),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("verdict") / "verdict.onnx"
    program.save(path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@settings(max_examples=400, deadline=None)
@given(case=cases())
def test_the_graph_decides_as_the_policy_does(session, case):
    score, probability, conformal, policy = case
    expected = policy.decide(evidence(score, probability.astype(np.float64), conformal))
    feeds = inputs_of(*case)
    eager = verdicts(*(torch.from_numpy(np.asarray(value)) for value in feeds.values()))
    assert [VERDICTS[code] for code in eager.tolist()] == expected
    [found] = session.run(None, feeds)
    assert found.dtype == np.int64
    assert [VERDICTS[code] for code in found] == expected


def test_every_verdict_occurs_and_ties_count(session):
    held_out = ConformalScores(np.arange(19, dtype=np.float32), anomalous=[20.0, 30.0, 40.0])
    policy = Policy(threshold=0.5, p_value_threshold=0.1, p_value_defer=0.2)
    # p = 1, (1 + 3) / 20 = the end of deferring, (1 + 1) / 20 = the threshold, and no probability
    score = np.array([0.0, 16.0, 18.0, 16.0, 0.0], np.float32)
    probability = np.array([0.1, 0.1, 0.5, np.nan, 0.9], np.float32)
    [found] = session.run(None, inputs_of(score, probability, held_out, policy))
    assert [VERDICTS[code] for code in found] == [
        Verdict.ACCEPT, Verdict.DEFER, Verdict.REJECT, Verdict.DEFER, Verdict.DEFER
    ]  # fmt: skip
    [found] = session.run(None, inputs_of(score, probability, None, policy))
    assert set(found) == {VERDICTS.index(Verdict.UNCALIBRATED)}


def test_a_threshold_between_two_fractions_that_float32_cannot_tell_apart():
    held_out = torch.zeros(2**24 - 1)
    p = rank_share(torch.tensor([1.0, 0.0]), held_out)
    assert p.dtype == torch.float64
    assert p.tolist() == [2.0**-24, 1.0]


def test_codes_are_those_of_the_schema():
    assert [str(one) for one in VERDICTS] == ["accept", "reject", "defer", "uncalibrated"]
