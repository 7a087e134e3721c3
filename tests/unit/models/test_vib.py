"""The bottleneck's formulas by hand."""

import math

import pytest
import torch

from zprl.models.vib import Vib, kl_divergence, sample_posterior


def test_kl_is_averaged_over_latent_dimensions_not_summed():
    # N(1, 1): 1/2.  N(0, 2): -(1 + 2 ln 2 - 4) / 2.  Their mean:
    expected = (0.5 + (1.5 - math.log(2))) / 2
    assert kl_divergence(
        torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, math.log(2)]])
    ).item() == pytest.approx(expected, abs=1e-6)
    assert kl_divergence(torch.zeros(4, 3), torch.zeros(4, 3)).item() == 0


def test_sample_is_mean_plus_std_times_noise():
    drawn = sample_posterior(
        torch.tensor([[1.0]]), torch.tensor([[math.log(2)]]), torch.tensor([[-3.0]])
    )
    assert drawn.item() == pytest.approx(-5)


def test_log_std_is_half_the_log_variance():
    vib = Vib(4, 2, hidden=(5,))
    torch.nn.init.zeros_(vib.log_variance.weight)
    torch.nn.init.constant_(vib.log_variance.bias, 3.0)
    assert vib.posterior(torch.randn(6, 4))[1].tolist() == [[1.5, 1.5]] * 6


def test_nothing_goes_around_the_bottleneck():
    vib = Vib(4, 2, hidden=(5, 6))
    assert vib.decode(torch.randn(3, 2)).shape == (3, 4)
    jacobian = torch.autograd.functional.jacobian(
        lambda e: vib.decode(vib.posterior(e)[0]), torch.randn(4)
    )
    assert torch.linalg.matrix_rank(jacobian, atol=1e-6) <= 2
