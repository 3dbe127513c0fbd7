"""Limits on agreement, by hand."""

import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.evaluation.agreement_limit import check_limit, missed_agreements
from amalgam_edge.runtime.evaluation import Evaluation, HeadEvaluation, TeacherEvaluation
from amalgam_edge.runtime.manifest_models import TeacherAgreement


def measured(**agreements):
    """Heads of one teacher, which is called as the head; fp32 agrees with it always, int8 as often as is said."""

    def head(name, agreement):
        rows = {"fp32": 1.0, "int8": agreement}
        student = {
            model: TeacherAgreement(0 if share is None else 200, share, {}, None, 0, 0, 0)
            for model, share in rows.items()
        }
        return HeadEvaluation("softmax", 0, ("a",), {}, {name: TeacherEvaluation(None, 0, student=student)})

    return Evaluation("d", 200, "int8", {name: head(name, share) for name, share in agreements.items()})


def test_the_default_model_of_every_head_counts():
    found = missed_agreements(measured(topic=0.95, tone=0.925, area=None), 0.95)
    assert found == [
        "--min-agreement: head 'tone' (int8) agrees with teacher 'tone' on 92.50% of 200 texts, "
        "2.50 points below 95.00%",
        "--min-agreement: head 'area' (int8) agrees with teacher 'area' on no text: there is none of its labels",
    ]


def test_heads_may_have_limits_of_their_own():
    assert missed_agreements(measured(topic=0.5, tone=0.9), {"tone": 0.9}) == []
    assert len(missed_agreements(measured(topic=0.5, tone=0.9), {"tone": 0.91, "topic": 0.5})) == 1
    with pytest.raises(AmalgamError, match="no teacher of that head was named"):
        missed_agreements(measured(topic=0.5), {"tone": 0.9})


@pytest.mark.parametrize("limit", [-0.1, 1.01, float("nan"), {"topic": 0.9, "tone": 95}])
def test_a_limit_is_a_share(limit):
    with pytest.raises(AmalgamError, match="a share between 0 and 1 is expected"):
        check_limit(limit, ["topic=runs/topic"])
    with pytest.raises(AmalgamError, match="no teacher to agree with"):
        check_limit(limit, [])
