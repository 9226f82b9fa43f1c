"""What loading and looking at a checkpoint imports: each in a process of its own."""

import subprocess
import sys

import pytest
import torch

from nfflr.checkpoint import load_checkpoint, save_checkpoint
from nfflr.checkpoint_files import read_description
from nfflr.models.construction import Bounded

HEAVY = ("torch._dynamo", "torch._inductor", "sympy")


def imported(program, names):
    """Those of some modules that a program has imported when it ends."""
    end = f"\nimport sys; print([n for n in {names!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program + end], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", ["mlearn-si", "mlearn-si-alignn"])
def test_a_calculator_needs_no_compiler_of_torch(name):
    program = (
        "from ase.build import bulk; from nfflr import NFFLrCalculator; atoms = bulk('Si', a=5.469);"
        f"atoms.calc = NFFLrCalculator.load({name!r}); assert atoms.get_potential_energy() < -10"
    )
    assert imported(program, HEAVY) == "[]"


@pytest.mark.parametrize("command", [["info", "mlearn-si"], ["info", "ethanol", "--json"], ["models"]])
def test_looking_needs_no_torch(command):
    program = f"from nfflr.cli.main import run; assert run({command!r}) == 0"
    assert imported(program, ("torch", "dgl")) == "[]"


def test_a_description_counts_the_numbers_of_the_tensors(tmp_path):
    model, metadata = load_checkpoint("mlearn-si")
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model)
    _, description, numbers = read_description(path)
    assert numbers == sum(tensor.numel() for tensor in model.state_dict().values())
    assert description["parameters"] == sum(p.numel() for p in model.parameters())
    assert description["elements"] == metadata["elements"] == ["Si"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(10**6, 10**6),
        lambda: torch.zeros((10**12,)),
        lambda: torch.full(size=(10**7, 10**7), fill_value=1.0),
        lambda: torch.eye(10**6),
        lambda: torch.arange(10**12),
        lambda: torch.linspace(0, 1, 10**12),
        lambda: torch.zeros(2).repeat(10**6, 10**6),
        lambda: torch.zeros(1).new_zeros(10**12),
        lambda: torch.zeros(10**5, 1) * torch.zeros(1, 10**5),
        lambda: [torch.zeros(2000, 1000) for _ in range(10)],
        lambda: torch.nn.Linear(10**6, 10**6),
        lambda: torch.nn.Embedding(10**6, 10**6),
    ],
)
def test_what_a_file_asks_for_is_bounded_before_it_is_allocated(make):
    with Bounded(100, 4 * 10**6), pytest.raises(ValueError, match="many more numbers"):
        make()


def test_what_a_model_needs_is_within_bounds():
    with Bounded(100, 1000):
        assert torch.full((2, 3), 1e9).sum() == 6e9
        assert (torch.zeros(3, 1) + torch.arange(4)).shape == (3, 4)
        assert torch.nn.Linear(10, 20).weight.shape == (20, 10)
