"""Products of one input with several compressed weight matrices become one product.

A decoder multiplies the same vector with three matrices for queries, keys and values, and with two
in a gated MLP. Each product is a parallel section of its own, whose threads wait for the slowest:
for few tokens that takes as long as some of the products. Rows are compressed each by itself, so
joining the matrices changes no number. Where weights are not compressed, OpenVINO has such a fusion
of its own (QKVProjFusion, MLPFusion).
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import openvino as ov
from openvino import opset13 as opset


def fuse_projections(model: ov.Model) -> int:
    """Join products that share their input, in place; returns how many were made."""
    groups = defaultdict(list)
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MatMul" and is_compressed(node):
            source = node.input_value(0)
            groups[source.get_node().get_friendly_name(), source.get_index()].append(node)
    fused = [group for group in groups.values() if len(group) > 1 and fuse(group)]
    model.validate_nodes_and_infer_types()
    return len(fused)


def is_compressed(product: ov.Node) -> bool:
    """Whether it is x @ W^T, with a W of integers and scales."""
    weights = product.input_value(1).get_node()
    while weights.get_type_name() in ("Convert", "Reshape"):
        weights = weights.input_value(0).get_node()
    return product.get_attributes()["transpose_b"] and weights.get_type_name() == "Multiply"


def fuse(products: list[ov.Node]) -> bool:
    """Replace the products by one; False where their weights are made in different ways."""
    rows = [product.input_value(1).get_shape()[0] for product in products]
    weights = join([product.input_value(1) for product in products], rows)
    if weights is None:
        return False
    joined = opset.matmul(products[0].input_value(0), weights, False, True)
    joined.set_friendly_name("+".join(product.get_friendly_name() for product in products))
    parts = opset.variadic_split(joined, opset.constant(-1), opset.constant(rows))
    for index, product in enumerate(products):
        for reader in product.output(0).get_target_inputs():
            reader.replace_source_output(parts.output(index))
    return True


def join(ports: list[ov.Output], rows: list[int]) -> ov.Output | None:
    """What computes all rows of these weights, each given by the port that has its rows."""
    nodes = [port.get_node() for port in ports]
    kinds = {(node.get_type_name(), node.get_output_element_type(0)) for node in nodes}
    if len(kinds) > 1:
        return None
    ((kind, element),) = kinds
    if kind == "Constant":
        return join_constants(nodes, rows)
    sources = [
        join([node.input_value(index) for node in nodes], rows)
        for index in range(nodes[0].get_input_size())
    ]
    if kind not in MAKE or None in sources:
        return None
    return MAKE[kind](element, *sources).output(0)


MAKE = {
    "Convert": lambda element, source: opset.convert(source, element),
    "Multiply": lambda element, left, right: opset.multiply(left, right),
    "Subtract": lambda element, left, right: opset.subtract(left, right),
    "Reshape": lambda element, source, shape: opset.reshape(source, shape, False),
}


def join_constants(constants: list[ov.Node], rows: list[int]) -> ov.Output | None:
    """Rows below rows; what all have in common stays; of a shape the rows are added up."""
    first, values = constants[0], [constant.data for constant in constants]
    shapes = [list(constant.get_output_shape(0)) for constant in constants]
    if all(shape[:1] == [count] for shape, count in zip(shapes, rows)):
        shape = ov.Shape([sum(rows), *shapes[0][1:]])
        tensor = ov.Tensor(first.get_output_element_type(0), shape)
        tensor.data[:] = np.concatenate(values)  # integers of 4 bits are bytes, in one row
        return ov.op.Constant(tensor).output(0)
    if all(shape_of_rows(value, count) for value, count in zip(values, rows)):
        return opset.constant([sum(rows), *values[0][1:]]).output(0)
    if all(np.array_equal(value, values[0]) for value in values):
        return first.output(0)
    return None


def shape_of_rows(value: np.ndarray, count: int) -> bool:
    return value.ndim == 1 and value.dtype == np.int64 and value[0] == count
