"""What the machine at hand is good at."""

from __future__ import annotations

import re

import torch

from modelmoat.core.errors import OptionError, nearest


def gpu_number(device: str, option: str = "device") -> int | None:
    """Number of the GPU that a name such as ``cuda:1`` means; None for the CPU. Raises `OptionError` for other names."""
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", device, re.ASCII)
    if not match:
        raise OptionError(f"{option} {device}: expected cpu, cuda or cuda:N{nearest(device, ('cpu', 'cuda'))}")
    return None if device == "cpu" else int(match[1] or 0)


def native_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself; emulated, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
