"""One table of peaks: the type that a site names is a device of it."""

from __future__ import annotations

import pytest

from hpcscale.model.peaks import peak_flops, type_peak


@pytest.mark.parametrize(
    ("gpu_type", "precision", "told", "peak"),
    [
        ("H100", "bf16", "H100 (SXM)", 989.4e12),
        ("h100", "fp32", "H100 (SXM)", 66.9e12),
        ("H100 PCIe", "bf16", "H100 PCIe", 756e12),
        ("A100", "bf16", "A100", 312e12),
        ("V100", "fp16", "V100 (SXM)", 125e12),
        ("V100", "bf16", "V100 (SXM)", None),
        ("MI250X", "bf16", "MI250X (one of two dies)", 191.5e12),
        ("l40s", "bf16", "l40s", 362.05e12),
        ("unheard-of", "bf16", "unheard-of", None),
    ],
)
def test_a_type_has_the_peak_of_its_device(
    gpu_type: str, precision: str, told: str, peak: float | None
) -> None:
    found = type_peak(gpu_type, precision)
    assert found == (told, None if peak is None else pytest.approx(peak))


@pytest.mark.parametrize(
    ("gpu_type", "device"),
    [
        ("V100", "Tesla V100-SXM2-16GB"),
        ("A40", "NVIDIA A40"),
        ("A100", "NVIDIA A100-SXM4-40GB"),
        ("A800", "NVIDIA A800-SXM4-80GB"),
        ("L40S", "NVIDIA L40S"),
        ("H100", "NVIDIA H100 80GB HBM3"),
        ("H200", "NVIDIA H200"),
        ("GH200", "NVIDIA GH200 480GB"),
        ("MI250X", "AMD Instinct MI250X"),
        ("MI300X", "AMD Instinct MI300X"),
    ],
)
def test_a_plan_and_a_run_have_the_same_peak(gpu_type: str, device: str) -> None:
    for precision in ("fp16", "fp32"):
        peak = peak_flops(device, precision)
        assert peak is not None
        assert type_peak(gpu_type, precision)[1] == peak
