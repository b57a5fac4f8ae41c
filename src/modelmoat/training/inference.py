"""Forward passes over many images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelmoat.training.sources import Images, as_float, as_images

BATCH = 512


@torch.inference_mode()
def predict_logits(network: nn.Module, images: Tensor | Images, *, batch_size: int = BATCH) -> Tensor:
    """Scores of every image in evaluation mode, float32 on the CPU, shape [N, K].

    Args:
        network: takes float32 images in [0, 1].
        images: [N, C, H, W], uint8 or float32 in [0, 1].
        batch_size: images per forward pass.
    """
    source = as_images(images)
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    outputs = []
    for start in range(0, len(source), batch_size):
        rows = torch.arange(start, min(start + batch_size, len(source)))
        batch = as_float(source.batch(rows).to(device))
        outputs.append(network(batch.contiguous(memory_format=torch.channels_last)).float().cpu())
    network.train(was_training)
    return torch.cat(outputs)


def predict_top1(network: nn.Module, images: Tensor | Images, *, batch_size: int = BATCH) -> Tensor:
    """Most likely class of every image, int64 [N]."""
    return predict_logits(network, images, batch_size=batch_size).argmax(dim=1)


def accuracy(network: nn.Module, images: Tensor | Images, labels: Tensor) -> float:
    """Share of images whose most likely class is the label."""
    return float((predict_top1(network, images) == labels).float().mean())
