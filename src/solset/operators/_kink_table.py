"""Which operations are smooth and which have kinks, by name.

A change of the dtype counts as smooth: features that are cut to integers hold ids or steps, which the
comparison of derivatives with differences finds. Operations with kinks act on single entries and have
thresholds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

AT_ZERO = frozenset({"relu", "leaky_relu", "rrelu", "prelu", "abs", "prelu_kernel", "rrelu_with_noise"})
"""Operations with a kink at zero."""

BOUNDS: Mapping[str, tuple[str, ...]] = {
    "clamp": ("min", "max"),
    "clamp_min": ("min",),
    "clamp_max": ("max",),
    "threshold": ("threshold",),
    "maximum": ("other",),
    "minimum": ("other",),
    "fmax": ("other",),
    "fmin": ("other",),
}
"""Operations with kinks at the bounds in their arguments, and the names of these."""

FIXED: Mapping[str, tuple[float, ...]] = {
    "relu6": (0.0, 6.0),
    "hardswish": (-3.0, 3.0),
    "hardsigmoid": (-3.0, 3.0),
}
"""Operations with kinks at these values."""

JUMPS_AT_ZERO = frozenset(
    {"sign", "sgn", "heaviside", "signbit", "sqrt", "rsqrt", "elu", "celu", "xlogy", "special_entr"}
)
"""Operations that jump at zero, or whose first or second derivative does or is infinite there."""

COMPARISONS = frozenset({"gt", "ge", "lt", "le", "eq", "ne"})
"""Comparisons, by which a user's own code writes a kink."""

Values = list[int | float | Tensor]


def bare(name: str) -> str:
    """The name of an operation without the underscores of its in-place and private forms.

    Example:
        >>> bare("relu_"), bare("__abs__"), bare("_prelu_kernel")
        ('relu', 'abs', 'prelu_kernel')
    """
    return name.strip("_")


def kinks_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Values:
    """The values of an operation's first argument at its kinks; none if the operation is smooth."""
    if name in AT_ZERO:
        return [0.0]
    if name in FIXED:
        return list(FIXED[name])
    if name == "hardtanh":
        given = _given(("min_val", "max_val"), args, kwargs)
        return [given.get("min_val", -1.0), given.get("max_val", 1.0)]
    if name in {"softshrink", "hardshrink"}:
        size = _given(("lambd",), args, kwargs).get("lambd", 0.5)
        return [-size, size]
    if name in BOUNDS:
        given = _given(BOUNDS[name], args, kwargs)
        return [given[bound] for bound in BOUNDS[name] if given.get(bound) is not None]
    return []


def distances_to_kinks(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Signed distances of the entries of the first argument from all kinks and jumps of an operation.

    Beside those of :func:`kinks_of` these are comparisons, jumps, rounding, roots at zero and the ends of
    losses that are quadratic in the middle.
    """
    first = args[0]
    kinks = kinks_of(name, args, kwargs)
    if name in JUMPS_AT_ZERO or (name == "pow" and _is_rough_power(args)):
        kinks = [0.0]
    elif name in COMPARISONS:
        kinks = [args[1]]
    elif name in {"asin", "acos", "arcsin", "arccos"}:
        kinks = [-1.0, 1.0]
    if kinks:
        return [first - kink for kink in kinks]
    if name in _SPECIAL:
        return [_SPECIAL[name](args, kwargs)]
    return []


def _given(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return dict(zip(names, args[1:], strict=False)) | dict(kwargs)


def _is_rough_power(args: Sequence[Any]) -> bool:
    return len(args) > 1 and isinstance(args[1], float) and args[1] != int(args[1])


def _to_integers(args: Sequence[Any], _: Mapping[str, Any]) -> Tensor:
    return args[0] - args[0].round()


def _to_halves(args: Sequence[Any], _: Mapping[str, Any]) -> Tensor:
    return args[0] - 0.5 - (args[0] - 0.5).round()


def _to_multiples(args: Sequence[Any], _: Mapping[str, Any]) -> Tensor:
    quotient = args[0] / args[1]
    return quotient - quotient.round()


def _to_bend(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    given = dict(zip(("reduction", "beta"), args[2:], strict=False)) | dict(kwargs)
    return (args[0] - args[1]).abs() - given.get("beta", given.get("delta", 1.0))


_SPECIAL: Mapping[str, Callable[[Sequence[Any], Mapping[str, Any]], Tensor]] = {
    **dict.fromkeys(("floor", "ceil", "trunc", "frac", "fix"), _to_integers),
    **dict.fromkeys(("remainder", "fmod", "floor_divide"), _to_multiples),
    **dict.fromkeys(("smooth_l1_loss", "huber_loss"), _to_bend),
    "round": _to_halves,
}

ELEMENTWISE = frozenset(
    {
        *AT_ZERO,
        *BOUNDS,
        *FIXED,
        *JUMPS_AT_ZERO,
        *COMPARISONS,
        *_SPECIAL,
        *("hardtanh", "softshrink", "hardshrink", "pow", "asin", "acos", "arcsin", "arccos"),
    }
)
"""All operations of which :func:`distances_to_kinks` knows kinks."""


SMOOTH = frozenset(
    """
    alias alias_copy as_strided as_strided_copy as_strided_scatter block_diag cat chunk_cat clone
    constant_pad_nd copy detach diag_embed diagonal diagonal_copy diagonal_scatter expand expand_copy
    fill flip gather im2col col2im index index_add index_copy index_fill index_put index_select
    lift_fresh masked_fill masked_scatter masked_select narrow_copy permute permute_copy pixel_shuffle
    pixel_unshuffle put reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d reshape_alias resize resize_as roll rot90
    scatter scatter_add select select_scatter slice slice_scatter split split_copy split_with_sizes
    split_with_sizes_copy squeeze squeeze_copy stack t t_copy take transpose transpose_copy tril triu
    unbind unbind_copy unfold unfold_copy unsafe_index unsafe_index_put unsafe_masked_index
    unsafe_masked_index_put_accumulate unsafe_split unsafe_view unsqueeze unsqueeze_copy view
    view_as_complex view_as_real view_copy where conj conj_physical neg_view resolve_conj real imag
    complex constant new_empty new_empty_strided new_full new_ones new_zeros empty_like full_like
    ones_like zeros_like zero rand_like randn_like randint_like bernoulli normal uniform exponential
    geometric cauchy log_normal multinomial all any allclose isnan isinf isfinite isin logical_and
    logical_not logical_or logical_xor nonzero count_nonzero local_scalar_dense is_same_size
    assert_async assert_tensor_metadata add addbmm addcdiv addcmul addmm addmm_activation addmv addr
    baddbmm bmm cumprod cumsum dot einsum ldexp lerp linear linalg_cross logcumsumexp logsumexp mean mm
    mul mv nansum neg prod reciprocal rsub square sub sum trace trilinear bilinear vdot mse_loss var
    var_mean acosh asinh atan atanh cos cosh digamma erf erfc erfinv exp exp2 expm1 gelu glu i0 igamma
    igammac lgamma log log10 log1p log2 log_sigmoid log_sigmoid_forward log_softmax logaddexp logaddexp2
    logit mish mvlgamma polygamma safe_softmax sigmoid silu sin sinc sinh softmax softplus special_erfcx
    special_i1 special_log_ndtr special_ndtri special_xlog1py special_zeta tan tanh adaptive_avg_pool2d
    adaptive_avg_pool3d avg_pool1d avg_pool2d avg_pool3d batch_norm_with_update convolution
    convolution_overrideable cudnn_batch_norm cudnn_convolution mkldnn_convolution mkldnn_linear
    native_batch_norm native_batch_norm_legit native_batch_norm_legit_no_training native_dropout
    native_group_norm native_layer_norm fused_rms_norm embedding binary_cross_entropy
    binary_cross_entropy_with_logits nll_loss2d_forward nll_loss_forward soft_margin_loss ctc_loss
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_nearest_exact1d upsample_nearest_exact2d upsample_nearest_exact3d
    upsample_trilinear3d upsample_bicubic2d_aa upsample_bilinear2d_aa native_multi_head_attention
    transformer_encoder_layer_fwd scaled_dot_product_flash_attention
    scaled_dot_product_flash_attention_for_cpu scaled_dot_product_efficient_attention
    scaled_dot_product_cudnn_attention scaled_dot_product_attention_math thnn_fused_lstm_cell
    thnn_fused_gru_cell cudnn_rnn mkldnn_rnn_layer fft_c2c fft_c2r fft_r2c cholesky cholesky_inverse
    cholesky_solve linalg_check_errors linalg_cholesky_ex linalg_det linalg_inv_ex linalg_lu_solve
    linalg_matrix_exp linalg_slogdet linalg_solve_ex linalg_solve_triangular triangular_solve
    weight_norm_interface
    to_copy
    """.split()  # noqa: SIM905 - three hundred names read better as a text
)
"""Bare names of these operations, those that create or only read tensors among them."""


def is_smooth(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call is known to be smooth, as is the backward pass of a smooth operation."""
    if name == "div":
        return kwargs.get("rounding_mode") is None
    return name in SMOOTH or name.removesuffix("_backward") in SMOOTH
