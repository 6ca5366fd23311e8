"""Trains and builds ONNX models, and writes what ONNX Runtime gives of 100,000 rows: make_onnx.py DIRECTORY.

Of each model: NAME.onnx, NAME.x (f32, column after column) and NAME.y (scores, row after row, in the output's type), all
little-endian; models.json says their shapes. Seeds are fixed.
"""

import json
import pathlib
import sys

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skl2onnx import to_onnx

ROWS = 100_000
COLUMNS = 8
ML = "ai.onnx.ml"
out = pathlib.Path(sys.argv[1])
rng = numpy.random.default_rng(20)
manifest = []


def run(model, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    taken = session.get_inputs()[0]
    outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, {taken.name: x.astype(
        numpy.float64 if taken.type == "tensor(double)" else numpy.float32)})))
    scores = [values for name, values in outputs.items() if "label" not in name]
    assert len(scores) == 1, outputs.keys()
    scores = scores[0]
    if isinstance(scores, list):  # ZipMap
        scores = numpy.array([list(row.values()) for row in scores], dtype=numpy.float32)
    return scores.reshape(len(x), -1)


def add(name, model, x):
    onnx.checker.check_model(model)
    # The batch's size must not matter.
    y = run(model, x)
    assert run(model, x[:7]).tobytes() == y[:7].tobytes() or name.startswith(("linear", "logistic", "mlp", "gemm")), name
    (out / f"{name}.onnx").write_bytes(model.SerializeToString())
    (out / f"{name}.x").write_bytes(numpy.ascontiguousarray(x.T, dtype="<f4").tobytes())
    (out / f"{name}.y").write_bytes(numpy.ascontiguousarray(y).tobytes())
    manifest.append({"name": name, "columns": x.shape[1], "scores": y.shape[1], "is_double": y.dtype == numpy.float64})


# What scikit-learn trains.

normal = rng.normal(size=(ROWS, COLUMNS)).astype(numpy.float32)
train = rng.normal(size=(3_000, COLUMNS)).astype(numpy.float32)
signal = train[:, 0] * train[:, 1] + numpy.sin(3 * train[:, 2]) + 0.3 * rng.normal(size=len(train))
binary = (signal > 0.1).astype(int)
several = numpy.digitize(signal, [-0.8, 0, 0.9])


def sklearn(name, estimator, target, zipmap=False):
    estimator.fit(train, target)
    is_classifier = hasattr(estimator, "predict_proba")
    options = {id(estimator): {"zipmap": zipmap}} if is_classifier else None
    add(name, to_onnx(estimator, train[:1], options=options), normal)


seed = {"random_state": 7}
sklearn("boosted_regressor", GradientBoostingRegressor(n_estimators=120, max_depth=5, **seed), signal)
sklearn("boosted_binary", GradientBoostingClassifier(n_estimators=100, **seed), binary)
sklearn("boosted_multi", GradientBoostingClassifier(n_estimators=40, **seed), several)
sklearn("forest_regressor", RandomForestRegressor(n_estimators=60, max_depth=12, **seed), signal)
sklearn("forest_two_targets", RandomForestRegressor(n_estimators=20, **seed), numpy.stack([signal, -signal**2], 1))
sklearn("forest_binary", RandomForestClassifier(n_estimators=60, max_depth=10, **seed), binary)
sklearn("forest_multi", RandomForestClassifier(n_estimators=40, max_depth=10, **seed), several, zipmap=True)
sklearn("linear_regression", LinearRegression(), signal)
sklearn("linear_two_targets", LinearRegression(), numpy.stack([signal, -signal], 1))
sklearn("logistic_binary", LogisticRegression(), binary, zipmap=True)
sklearn("logistic_multi", LogisticRegression(), several)
sklearn("logistic_scaled", make_pipeline(StandardScaler(), LogisticRegression()), binary)
sklearn("mlp_binary_relu", MLPClassifier((32, 16), max_iter=30, **seed), binary)
sklearn("mlp_multi_tanh", MLPClassifier((24,), activation="tanh", max_iter=30, **seed), several)
sklearn("mlp_regressor_sigmoid", MLPRegressor(hidden_layer_sizes=(16, 16), activation="logistic", max_iter=30, **seed), signal)


# What is built by hand. Values that tests are equal to, missing and infinite ones, signed zeros.

special = numpy.array([-3, -2, -1, -0.0, 0, 0.5, 1, 2, 2.5, 3, 17, 31, 32, 70, numpy.nan, numpy.inf, -numpy.inf], numpy.float32)
odd = rng.choice(special, size=(ROWS, COLUMNS))
odd[:, :2] = rng.normal(size=(ROWS, 2)).astype(numpy.float32)
odd[rng.random(size=odd.shape) < 0.05] = numpy.nan
MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


def model(node, output, element=TensorProto.FLOAT, result=TensorProto.FLOAT, version=3):
    label = [helper.make_tensor_value_info("label", TensorProto.INT64, [None])] if "label" in node.output else []
    x = helper.make_tensor_value_info("x", element, [None, COLUMNS])
    y = helper.make_tensor_value_info(output, result, [None, None])
    graph = helper.make_graph([node], "graph", [x], [*label, y])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(ML, version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def split(feature):
    """A threshold that values of the feature are near or equal to."""
    if feature < 2:
        return float(numpy.float32(rng.normal()))
    return float(rng.choice(special[~numpy.isnan(special)]))


def trees(count, depth):
    """Branches (mode, feature, split, tracks, true, false) and leaves None, tree by tree; children are indices."""
    for _ in range(count):
        nodes = []

        def grow(level):
            at = len(nodes)
            nodes.append(None)
            if level < depth and (level == 0 or rng.random() < 0.85):
                feature = int(rng.integers(COLUMNS))
                rest = [int(rng.integers(len(MODES))), feature, split(feature), int(rng.integers(2))]
                nodes[at] = (*rest, grow(level + 1), grow(level + 1))
            return at

        grow(0)
        yield nodes


def v3(operator, count, depth, targets, is_double=False, weights_of=None, is_positive=False, **more):
    """weights_of: the targets that a leaf has weights of; any number of them if it is not given."""
    lists = {key: [] for key in ("treeids", "nodeids", "modes", "featureids", "values", "truenodeids", "falsenodeids",
                                 "missing_value_tracks_true")}
    weights = {key: [] for key in ("treeids", "nodeids", "ids", "weights")}
    for tree, nodes in enumerate(trees(count, depth)):
        for at, node in enumerate(nodes):
            mode, feature, value, tracks, true, false = node or (None, 0, 0.0, 0, 0, 0)
            row = (tree, at, "LEAF" if node is None else MODES[mode], feature, value, true, false, tracks)
            for key, value in zip(lists, row):
                lists[key].append(value)
            if node is None:
                some = rng.permutation(targets)[: rng.integers(1, targets + 1)]
                for target in weights_of if weights_of is not None else some:
                    value = rng.random() / count if is_positive else rng.normal()
                    for key, value in zip(weights, (tree, at, int(target), float(numpy.float32(value)))):
                        weights[key].append(value)
    prefix = "class" if operator.endswith("Classifier") else "target"
    attributes = {f"nodes_{key}": values for key, values in lists.items()}
    attributes |= {f"{prefix}_{key}": values for key, values in weights.items()}
    if is_double:
        for key in ("nodes_values", f"{prefix}_weights"):
            noise = 1 + 1e-12 * rng.normal(size=len(attributes[key]))
            attributes[f"{key}_as_tensor"] = numpy_helper.from_array(numpy.array(attributes.pop(key)) * noise, key)
    if prefix == "target":
        attributes["n_targets"] = targets
    else:
        attributes["classlabels_int64s"] = list(range(max(2, targets)))
    outputs = ["label", "y"] if prefix == "class" else ["y"]
    node = helper.make_node(operator, ["x"], outputs, domain=ML, **attributes, **more)
    return model(node, "y", TensorProto.DOUBLE if is_double else TensorProto.FLOAT)


regressor, classifier = "TreeEnsembleRegressor", "TreeEnsembleClassifier"
add("v3_modes", v3(regressor, 30, 7, 1, base_values=[0.3]), odd)
add("v3_modes_average", v3(regressor, 30, 7, 3, aggregate_function="AVERAGE", base_values=[0.3, -2.0, 1.0]), odd)
add("v3_double", v3(regressor, 30, 7, 1, is_double=True), odd)
add("v3_double_targets", v3(regressor, 30, 7, 3, is_double=True, post_transform="LOGISTIC"), odd)
add("v3_softmax", v3(regressor, 20, 5, 3, post_transform="SOFTMAX"), odd)
add("v3_softmax_zero", v3(classifier, 3, 4, 4, post_transform="SOFTMAX_ZERO"), odd)
add("v3_probit", v3(regressor, 10, 4, 1, is_positive=True, post_transform="PROBIT"), odd)
for transform in ("NONE", "LOGISTIC", "SOFTMAX"):
    name = transform.lower()
    add(f"v3_second_class_{name}", v3(classifier, 20, 5, 1, post_transform=transform, base_values=[0.1]), odd)
    add(f"v3_second_class_positive_{name}", v3(classifier, 20, 5, 1, is_positive=True, post_transform=transform), odd)
    add(f"v3_both_classes_{name}", v3(classifier, 20, 5, 2, weights_of=[0, 1], post_transform=transform), odd)


def v5(count, depth, targets, is_double=False, **more):
    lists = {key: [] for key in ("modes", "featureids", "splits", "missing_value_tracks_true", "truenodeids", "falsenodeids",
                                 "trueleafs", "falseleafs")}
    roots, members, leaf_targets, leaf_weights = [], [], [], []
    for tree in trees(count, depth):
        places, branches = {}, len(lists["modes"])
        roots.append(branches)
        for at, node in enumerate(tree):
            if node is None:
                places[at] = (len(leaf_targets), 1)
                leaf_targets.append(int(rng.integers(targets)))
                leaf_weights.append(float(numpy.float32(rng.normal())))
            else:
                places[at] = (branches, 0)
                branches += 1
        for node in filter(None, tree):
            mode, feature, value, tracks, true, false = node
            if feature >= 2 and rng.random() < 0.5:
                mode = 6
                some = rng.choice([-3.0, -1.0, 0.0, 1.0, 2.0, 3.0, 17.0, 31.0, 32.0, 70.0], size=rng.integers(1, 6), replace=False)
                members.extend([*some.tolist(), numpy.nan])
            row = (mode, feature, value, tracks, places[true][0], places[false][0], places[true][1], places[false][1])
            for key, value in zip(lists, row):
                lists[key].append(value)
    kind = numpy.float64 if is_double else numpy.float32
    attributes = {f"nodes_{key}": values for key, values in lists.items()}
    attributes["nodes_modes"] = numpy_helper.from_array(numpy.array(lists["modes"], numpy.uint8), "modes")
    for key, values in (("nodes_splits", lists["splits"]), ("leaf_weights", leaf_weights), ("membership_values", members)):
        attributes[key] = numpy_helper.from_array(numpy.array(values, kind), key)
    node = helper.make_node("TreeEnsemble", ["x"], ["y"], domain=ML, tree_roots=roots, leaf_targetids=leaf_targets,
                            n_targets=targets, **attributes, **more)
    kind = TensorProto.DOUBLE if is_double else TensorProto.FLOAT
    return model(node, "y", kind, kind, version=5)


# Of numbers that are not whole, ONNX Runtime cuts some before it looks for them in a set, against the standard.
whole = odd.copy()
whole[:, 2:] = numpy.trunc(whole[:, 2:])
add("v5_members", v5(25, 5, 1), whole)
add("v5_members_many", v5(90, 6, 1, post_transform=1), whole)
add("v5_members_softmax_zero", v5(3, 5, 3, post_transform=3), whole)
add("v5_average", v5(25, 5, 2, aggregate_function=0), whole)
add("v5_double", v5(25, 5, 2, is_double=True), whole)


def constant(name, *shape):
    return numpy_helper.from_array((rng.normal(size=shape) / 3).astype(numpy.float32), name)


nodes = [
    helper.make_node("Gemm", ["x", "w1", "b1"], ["h1"], transB=1, alpha=0.5),
    helper.make_node("LeakyRelu", ["h1"], ["h2"], alpha=0.1),
    helper.make_node("MatMul", ["h2", "w2"], ["h3"]),
    helper.make_node("Add", ["b2", "h3"], ["h4"]),
    helper.make_node("Tanh", ["h4"], ["h5"]),
    helper.make_node("Gemm", ["h5", "w3"], ["h6"]),
    helper.make_node("Softmax", ["h6"], ["y"]),
]
weights = [constant("w1", 64, COLUMNS), constant("b1", 64), constant("w2", 64, 32), constant("b2", 1, 32), constant("w3", 32, 5)]
x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, COLUMNS])
y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 5])
graph = helper.make_graph(nodes, "graph", [x], [y], weights)
add("gemm_softmax", helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), normal)

(out / "models.json").write_text(json.dumps(manifest, indent=1))
