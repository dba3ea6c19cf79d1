"""The head by which a student's features become those of its teacher."""

from torch import nn

from mmssl_ext.errors import UserValueError

LAYERS = (1, 4)


def teacher_head(in_channels: int, out_channels: int, layers: int) -> nn.Sequential:
    """Build the head; it is thrown away after the training.

    Args:
        in_channels: d, features of the student.
        out_channels: Features of the teacher.
        layers: 4: SimReg's MLP, d -> 2d -> d -> 2d -> teacher, with BatchNorm and ReLU
            after each 2d and nothing after d, all with biases (arXiv 2201.05131,
            official code). 1: a linear layer, as lightly-train's, from a truncated
            normal distribution of standard deviation 0.02.

    Raises:
        ValueError: Another number of layers. (The official code's 2 are linear.)
    """
    d = in_channels
    if layers == 4:
        return nn.Sequential(
            *_hidden(d, 2 * d),
            nn.Linear(2 * d, d),
            *_hidden(d, 2 * d),
            nn.Linear(2 * d, out_channels),
        )
    if layers != 1:
        raise UserValueError(
            f"head_layers={layers!r} must be 4, SimReg's MLP, or 1, a linear layer."
        )
    linear = nn.Linear(d, out_channels)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear)


def _hidden(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    linear = nn.Linear(in_channels, out_channels)
    return linear, nn.BatchNorm1d(out_channels), nn.ReLU(inplace=True)
