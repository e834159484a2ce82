"""Nesterov's accelerated gradient for one number, in Python's own float64."""


def nag(p: float, steps: list[tuple[float, float]], momentum: float, weight_decay: float) -> tuple[float, float]:
    """The parameter and its buffer after steps of (learning rate, gradient)."""
    buffer, lr_old = 0.0, steps[0][0]
    for lr, gradient in steps:
        correction = lr / lr_old
        p *= 1 - lr * weight_decay
        p += momentum**2 * correction * buffer - (1 + momentum) * lr * gradient
        buffer = momentum * correction * buffer - lr * gradient
        lr_old = lr
    return p, buffer
