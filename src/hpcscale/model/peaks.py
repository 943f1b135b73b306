"""Peaks of GPUs: one table, by the whole name of the device and by the type that a site names."""

from __future__ import annotations

import re
from typing import NamedTuple


class Peak(NamedTuple):
    """10^12 FLOP/s of one device: matrix units without sparsity, sums in fp32; fp32 without TF32.

    None: there is no such unit.
    """

    fp16: float | None
    bf16: float | None
    fp32: float


#: The whole of a device's name, since a part of a GPU (MIG), a laptop's or another form factor has
#: another peak. From the vendors' data sheets.
_PEAKS = {
    r"V100-(SXM2|SXM3)-\d+GB": Peak(125, None, 15.7),
    r"V100-PCIE-\d+GB": Peak(112, None, 14),
    r"T4": Peak(65, None, 8.1),
    r"A10": Peak(125, 125, 31.2),
    r"A30": Peak(165, 165, 10.3),
    r"A40": Peak(149.7, 149.7, 37.4),
    r"RTX A6000": Peak(154.8, 154.8, 38.7),
    r"A[18]00-(SXM4|PCIE)-\d+GB|A[18]00 80GB PCIe": Peak(312, 312, 19.5),
    r"L4": Peak(121, 121, 30.3),
    r"L40": Peak(181.05, 181.05, 90.5),
    r"L40S": Peak(362.05, 362.05, 91.6),
    r"RTX 6000 Ada Generation": Peak(364.2, 364.2, 91.1),
    r"GeForce RTX 3090": Peak(71, 71, 35.6),
    r"GeForce RTX 4090": Peak(165.2, 165.2, 82.6),
    r"GeForce RTX 5090": Peak(209.5, 209.5, 104.8),
    r"H100 PCIe": Peak(756, 756, 51),
    r"H100 NVL": Peak(835, 835, 60),
    r"H100 80GB HBM3|H800|H200|GH200 \d+GB": Peak(989.4, 989.4, 66.9),
    r"H200 NVL": Peak(836, 836, 60),
    r"H20": Peak(148, 148, 44),
    r"B200": Peak(2250, 2250, 75),
    r"GB200": Peak(2500, 2500, 80),
    r"MI250X": Peak(191.5, 191.5, 47.9),  # a rank has one of its two dies
    r"MI300X|MI325X": Peak(1307.4, 1307.4, 163.4),
}


def peak_flops(device_name: str, precision: str) -> float | None:
    """FLOP/s of one GPU by the name that its driver gives; None where it is not in the table.

    precision: fp16, bf16 or fp32.
    """
    model = re.sub(r"^((NVIDIA|Tesla|Quadro|AMD|Instinct) )+", "", device_name)
    for pattern, peak in _PEAKS.items():
        if re.fullmatch(pattern, model, re.IGNORECASE):
            found: float | None = getattr(peak, precision)
            return None if found is None else found * 1e12
    return None


#: A type that is sold in several forms, or whose name is not that of a device: the device that is
#: meant, and its name in a plan.
_TYPES = {
    "V100": ("V100-SXM2-32GB", "V100 (SXM)"),
    "A100": ("A100-SXM4-80GB", "A100"),
    "A800": ("A800-SXM4-80GB", "A800"),
    "H100": ("H100 80GB HBM3", "H100 (SXM)"),
    "H200": ("H200", "H200 (SXM)"),
    "GH200": ("GH200 96GB", "GH200"),
    "MI250X": ("MI250X", "MI250X (one of two dies)"),
}


def type_peak(gpu_type: str, precision: str) -> tuple[str, float | None]:
    """The name in a plan of the ``gpu_type`` of a site profile, and its peak in FLOP/s; None where
    the type is not in the table or has no units for ``precision``.
    """
    name = gpu_type.strip()
    device, told = _TYPES.get(name.upper(), (name, name))
    return told, peak_flops(device, precision)
