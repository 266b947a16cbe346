"""Products of bfloat16 tensors in float32: a logit of 20 rounded to bfloat16 is off by 0.06, and so is its log-prob.

N tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

WIDENED_AT_ONCE = 2**22
"""Weights that are copied to float32 at a time where the device multiplies into its operands' dtype alone."""


def wide_linear(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor | None = None) -> torch.Tensor:
    """Returns W h + b in float32, shape (N, V), rounded nowhere on the way; differentiable in all three."""
    if hidden_ND.dtype == weight_VD.dtype and weight_VD.dtype not in (torch.bfloat16, torch.float16):
        return torch.nn.functional.linear(hidden_ND, weight_VD, bias_V).float()
    apply: Any = _WideLinear.apply
    result_NV: torch.Tensor = apply(hidden_ND, weight_VD, bias_V)
    return result_NV


class _WideLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden_ND, weight_VD)
        ctx.bias = None if bias_V is None else bias_V.dtype
        result_NV = _product(hidden_ND, weight_VD)
        return result_NV if bias_V is None else result_NV.add_(bias_V.float())

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_ND, weight_VD = ctx.saved_tensors
        by_hidden = by_weight = None
        narrow_NV = above[0].to(weight_VD.dtype)
        if ctx.needs_input_grad[0]:
            by_hidden = (narrow_NV @ weight_VD).to(hidden_ND.dtype)
        if ctx.needs_input_grad[1]:
            by_weight = narrow_NV.mT @ hidden_ND.to(weight_VD.dtype)
        return by_hidden, by_weight, None if ctx.bias is None else above[0].sum(0).to(ctx.bias)


def columns(matrix_DR: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns a float32 matrix for ``times_columns``: in ``dtype``, what that rounds off beside it, shape (D, 2R).

    So a product of bfloat16 rows with few columns is as good as float32's, and no row is copied to float32.
    """
    if dtype == matrix_DR.dtype:
        return matrix_DR
    rounded_DR = matrix_DR.to(dtype)
    return torch.cat([rounded_DR, (matrix_DR - rounded_DR.float()).to(dtype)], 1)


def times_columns(rows: torch.Tensor, columns_DC: torch.Tensor, width: int) -> torch.Tensor:
    """Returns rows x the matrix, in float32 where rows are narrower, shape (..., R).

    Args:
        columns_DC: of ``columns``; width: R.
    """
    rows_TD = rows.reshape(-1, rows.shape[-1]).to(columns_DC.dtype)
    if columns_DC.shape[1] == width:
        return (rows_TD @ columns_DC).view(*rows.shape[:-1], width)
    product_TC = _product(rows_TD, columns_DC.mT)
    return (product_TC[:, :width] + product_TC[:, width:]).view(*rows.shape[:-1], width)


def _product(hidden_ND: torch.Tensor, weight_VD: torch.Tensor) -> torch.Tensor:
    if hidden_ND.is_cuda and hidden_ND.dtype == weight_VD.dtype:
        return torch.mm(hidden_ND, weight_VD.mT, out_dtype=torch.float32)
    wide_ND = hidden_ND.float()
    result_NV = wide_ND.new_empty(len(wide_ND), len(weight_VD))
    step = max(1, WIDENED_AT_ONCE // weight_VD.shape[1])
    for start in range(0, len(weight_VD), step):
        torch.mm(wide_ND, weight_VD[start : start + step].float().mT, out=result_NV[:, start : start + step])
    return result_NV
