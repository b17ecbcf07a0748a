"""Cost by count: one unit is a gradient of the risk over all points."""

FORWARD = 1 / 3  # a gradient is a forward pass and a backward pass of twice its work
JACOBIAN_GRAPH = 0.5  # a forward pass that is kept, with its share of what a push needs
JACOBIAN_SWEEP = 0.5  # J v or Jᵀ u through a kept graph
JACOBIAN_PRODUCT = 1.0  # from scratch, or in forward mode
GAUSS_NEWTON_SWEEP = 1.0  # a push and a pull through a kept graph
GAUSS_NEWTON_PRODUCT = 2.0  # from scratch: measured between 1.5 and 2.4
HESSIAN_GRAPH = 1.0  # a gradient that can itself be differentiated
HESSIAN_PRODUCT = 2.0  # a sweep through it: measured 1 for matrix products, 4 for convolutions
INPUT_JACOBIAN = 1.5  # graph, and a sweep through it, of the points concerned
MIXED_PRODUCT = 3.0  # the same of the mixed derivative
INPUT_ROW = 1 / 3  # a backward pass of one point without its weight part
ROW = 1.0  # one backward pass of one point, with its share of the forward pass
FACTOR_ROW = 1.5  # the same with its part of the p × p matrix of inner products
