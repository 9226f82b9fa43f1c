"""A name in a checkpoint means one architecture, whoever registers it."""

import pytest

from nfflr.errors import CheckpointError
from nfflr.models import base
from nfflr.models.moment import MomentNetwork


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    base.architectures()
    monkeypatch.setattr(base, "REGISTRY", dict(base.REGISTRY))


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(CheckpointError, match="'moment' is already registered by MomentNetwork"):

        @base.register("moment")
        class Another(MomentNetwork):
            pass

    assert base.architecture("moment") is MomentNetwork


def test_the_same_class_may_come_again():
    """As when a file is loaded anew: then the later one counts."""
    again = type("MomentNetwork", (MomentNetwork,), {"__module__": MomentNetwork.__module__})
    assert base.register("moment")(again) is again and base.architecture("moment") is again
