"""What every architecture is held to: one name, one class; and graphs that reach as far as it sees."""

import pytest
from ase.build import bulk

from nfflr.data.graph import periodic_radius_graph
from nfflr.errors import CheckpointError, StructureError
from nfflr.models import registry
from nfflr.models.moment import MomentConfig, MomentNetwork


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    registry.architectures()
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(CheckpointError, match="'moment' is already registered by MomentNetwork"):

        @registry.register("moment")
        class Another(MomentNetwork):
            pass

    assert registry.architecture("moment") is MomentNetwork


def test_the_same_class_may_come_again():
    """As when a file is loaded anew: then the later one counts."""
    again = type("MomentNetwork", (MomentNetwork,), {"__module__": MomentNetwork.__module__})
    assert registry.register("moment")(again) is again and registry.architecture("moment") is again


def test_a_graph_of_shorter_bonds_than_the_model_sees_is_refused():
    model = MomentNetwork(MomentConfig(elements=("Si",), cutoff=4.0))
    with pytest.raises(StructureError, match=r"bonds reach 3\.9 Å, the model needs 4 Å"):
        model(periodic_radius_graph(bulk("Si"), r=3.9))
    assert "forces" in model(periodic_radius_graph(bulk("Si"), r=4.1))
