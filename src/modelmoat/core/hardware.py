"""What the machine at hand is good at."""

from __future__ import annotations

import torch
from torch import nn

_VECTOR = 8  # float32 in an AVX2 register


def native_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself; emulated, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def memory_layout(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels last, but for networks with odd numbers of channels on processors without AVX-512.

    There, convolutions whose channels do not fill vectors of eight measure faster in the plain layout (LeNet: 6 and 16).
    """
    if device.type != "cpu" or torch.cpu.get_capabilities().get("avx512_f"):
        return torch.channels_last
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    odd = any(convolution.out_channels % _VECTOR for convolution in convolutions)
    return torch.contiguous_format if odd else torch.channels_last
