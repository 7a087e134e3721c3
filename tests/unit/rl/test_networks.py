"""Every hand-written gradient against autograd's."""

import pytest
import torch

from zprl.rl.networks import Adam, EnsembleMLP


def reference(net: EnsembleMLP, weights: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The same network in plain autograd operations, one member at a time."""
    outs = []
    for member in range(net.members):
        h = x
        for n, (w, b) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
            h = h @ w[member] + b[member]
            if n < len(weights) // 2 - 1:
                if net.layer_norm:
                    h = torch.nn.functional.layer_norm(h, h.shape[-1:])
                h = {"relu": torch.relu, "tanh": torch.tanh, "gelu": torch.nn.functional.gelu}[
                    net.activation
                ](h)
        outs.append(h)
    return torch.stack(outs)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("members", [1, 3])
def test_gradients_equal_autograd(activation, layer_norm, members):
    generator = torch.Generator().manual_seed(1)
    net = EnsembleMLP(
        (5, 7, 6, 2), members, activation=activation, layer_norm=layer_norm, generator=generator
    )
    x = torch.randn(11, 5, generator=generator)
    grad_out = torch.randn(members, 11, 2, generator=generator)

    out, trace = net(x)
    grad_in = net.backward(trace, grad_out, inputs=slice(2, 5))

    weights = [t.clone().requires_grad_() for pair in net._weights for t in pair]
    leaf = x.clone().requires_grad_()
    expected = reference(net, weights, leaf)
    torch.testing.assert_close(out, expected)
    grads = torch.autograd.grad(expected, [*weights, leaf], grad_out)
    for (w, b), gw, gb in zip(net._grads, grads[:-1:2], grads[1:-1:2], strict=True):
        torch.testing.assert_close(w, gw, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(b, gb, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad_in, grads[-1][:, 2:5], rtol=1e-4, atol=1e-5)


def test_backward_without_weights_leaves_their_gradient_alone():
    net = EnsembleMLP((3, 4, 1), 2, generator=torch.Generator().manual_seed(0))
    net.grad.fill_(7.0)
    out, trace = net(torch.ones(2, 3))
    assert net.backward(trace, torch.ones_like(out), weights=False) is None
    assert bool((net.grad == 7.0).all())


def test_orthogonal_output_gain():
    net = EnsembleMLP(
        (16, 16, 4), orthogonal=True, output_gain=0.01, generator=torch.Generator().manual_seed(0)
    )
    (hidden, bias), (output, _) = net._weights
    torch.testing.assert_close(hidden[0].T @ hidden[0], 2 * torch.eye(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(output[0].T @ output[0], 1e-4 * torch.eye(4), atol=1e-8, rtol=0)
    assert not bias.any()


def test_adam_first_step_and_clipping():
    # The first Adam step has length lr in every coordinate, whatever the gradient's size.
    flat = torch.zeros(2)
    grad = torch.tensor([3.0, -4.0])
    Adam(flat, 0.1, clip=1.0).step(grad)
    torch.testing.assert_close(grad, torch.tensor([0.6, -0.8]))  # norm 5 limited to 1
    torch.testing.assert_close(flat, torch.tensor([-0.1, 0.1]), atol=1e-6, rtol=0)


def test_adam_continues_exactly():
    def run(break_at):
        flat, grads = torch.ones(3), torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
        adam = Adam(flat, 0.01)
        for n, grad in enumerate(grads):
            if n == break_at:
                state = {k: v.clone() for k, v in adam.state().items()}
                flat = flat.clone()
                adam = Adam(flat, 0.01)
                adam.restore(state)
            adam.step(grad.clone())
        return flat

    assert torch.equal(run(None), run(3))
