#!/usr/bin/env python3
"""Scores the same rows with the same forests by Engram and by others, on one thread, and prints a table.

    peers.py BENCH    where BENCH is the built `forest` bench; run.sh builds it and calls this
    ROWS, ROUNDS, MISSING (a share of the values) and SHAPES ("100x6 500x8": trees x depth) may be set; KEEP names a folder
    that forests and rows are copied to

Forests are trained on synthetic data by XGBoost and LightGBM, then written in the layout that `forest.rs` documents. Engram's
margins must equal the trainer's bit for bit, or there is no table. Times are of the CPU, not of the clock; rounds
alternate between the sides, and the best of each counts, so that what else the machine does harms all alike.
"""

import os
import struct
import subprocess
import sys
import tempfile
import time

os.environ["OMP_NUM_THREADS"] = "1"

import json

import lightgbm
import lleaves
import numpy
import onnx
import onnxruntime
import xgboost

ROWS = int(os.environ.get("ROWS", 131_072))
FEATURES = 32
# Rows that are learnt from: enough for trees that are nearly full.
TRAINED = 65_536
ROUNDS = int(os.environ.get("ROUNDS", 5))
SHAPES = [tuple(map(int, shape.split("x"))) for shape in os.environ.get("SHAPES", "100x6 500x8 100x12").split()]
LEAF = 0xFFFFFFFF


def main():
    random = numpy.random.default_rng(7)
    rows = random.standard_normal((ROWS, FEATURES), dtype=numpy.float32)
    noise = random.standard_normal(ROWS)
    linear = rows[:, 3:16] @ random.standard_normal(13)
    target = (rows[:, 0] * rows[:, 1] + numpy.sin(3 * rows[:, 2]) + linear / 2 + noise / 3).astype(numpy.float32)
    # A twentieth is missing where it is scored, not where it is learnt from.
    rows_scored = rows.copy()
    rows_scored[random.random(rows.shape) < float(os.environ.get("MISSING", 0.05))] = numpy.nan
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/rows.f32", "wb") as file:
            file.write(struct.pack("<II", ROWS, FEATURES) + numpy.asfortranarray(rows_scored).tobytes("F"))
        peers, expected = {}, {}
        for trees, depth in SHAPES:
            name = f"xgboost_{trees}x{depth}"
            booster = train_xgboost(rows[:TRAINED], target[:TRAINED], trees, depth)
            expected[name] = booster.inplace_predict(rows_scored, predict_type="margin").astype(numpy.float64)
            forest = of_xgboost(booster)
            write(f"{folder}/{name}.forest", forest, is_double=False)
            session = of_onnx(forest)
            peers[name] = {
                "XGBoost": lambda booster=booster: booster.inplace_predict(rows_scored, predict_type="margin"),
                "ONNX Runtime": lambda session=session: session.run(None, {"rows": rows_scored})[0],
            }
            # Deeper trees are no aim of the peers that compile, nor can they compile them in reasonable time.
            if depth > 8:
                continue
            name = f"lightgbm_{trees}x{depth}"
            booster = train_lightgbm(rows[:TRAINED], target[:TRAINED], trees, depth)
            expected[name] = booster.predict(rows_scored, raw_score=True, num_threads=1)
            write(f"{folder}/{name}.forest", of_lightgbm(booster), is_double=True)
            booster.save_model(f"{folder}/{name}.txt")
            compiled = lleaves.Model(f"{folder}/{name}.txt")
            # With everything inlined, compiling 500 trees of depth 8 had not ended after 7 minutes of CPU at 5 GiB.
            compiled.compile(raw_score=True, finline=trees * depth < 1000)
            peers[name] = {
                "lleaves": lambda compiled=compiled: compiled.predict(rows_scored, n_jobs=1),
                "LightGBM": lambda booster=booster: booster.predict(rows_scored, raw_score=True, num_threads=1),
            }
        if keep := os.environ.get("KEEP"):
            subprocess.run(["cp", "-r", folder, keep], check=True)
        seconds = measure(folder, peers)
        for name, margins in expected.items():
            given = numpy.fromfile(f"{folder}/{name}.margins", "<f8")
            if given.tobytes() != margins.astype("<f8").tobytes():
                sys.exit(f"{name}: {(given != margins).sum()} of {len(margins)} margins are not the trainer's")
            for peer, run in peers[name].items():
                print(f"# {name}: {peer} differs by at most {numpy.abs(run().ravel() - margins).max():.1e}", file=sys.stderr)
        print(f"{ROWS} rows of {FEATURES} columns, one thread's CPU time, best of {ROUNDS} rounds; margins equal the trainer's bit for bit")
        print(f"{'forest':<18}{'':<14}{'rows/s':>12}{'Engram is':>12}")
        for name, times in seconds.items():
            for who, best in times.items():
                print(f"{name:<18}{who:<14}{ROWS / best:>12,.0f}{best / times['Engram']:>11.2f}x")
        block = numpy.ones(rows.size, numpy.float32)
        copy = best_of(lambda: numpy.copyto(block, rows_scored.ravel()))
        print(f"{'any':<18}{'copying rows':<14}{ROWS / copy:>12,.0f}")


def measure(folder, peers):
    seconds = {name: {"Engram": float("inf")} | dict.fromkeys(runs, float("inf")) for name, runs in peers.items()}
    for _ in range(ROUNDS):
        environment = os.environ | {"FOREST_DIR": folder, "FOREST_REPETITIONS": "3"}
        out = subprocess.run([sys.argv[1]], env=environment, check=True, capture_output=True, text=True).stdout
        for line in out.splitlines():
            name, *times = line.split()
            seconds[name]["Engram"] = min(seconds[name]["Engram"], *map(float, times))
        for name, runs in peers.items():
            for peer, run in runs.items():
                seconds[name][peer] = min(seconds[name][peer], best_of(run))
    return seconds


def best_of(run, repetitions=2):
    def once():
        start = time.process_time()
        run()
        return time.process_time() - start

    return min(once() for _ in range(repetitions))


def train_xgboost(rows, target, trees, depth):
    parameters = {"max_depth": depth, "eta": 0.1, "objective": "reg:squarederror"}
    booster = xgboost.train(parameters, xgboost.DMatrix(rows, target), trees)
    booster.set_param({"nthread": 1})
    return booster


def train_lightgbm(rows, target, trees, depth):
    parameters = {"max_depth": depth, "num_leaves": 2**depth, "objective": "regression", "verbose": -1}
    return lightgbm.train(parameters, lightgbm.Dataset(rows, target), trees)


def of_xgboost(booster):
    """Trees of tuples (feature, left, right, default left, NaN is zero, threshold, value), and the base score."""
    learner = json.loads(booster.save_raw("json"))["learner"]
    base = float(learner["learner_model_param"]["base_score"].strip("[]"))
    trees = []
    for tree in learner["gradient_booster"]["model"]["trees"]:
        fields = ["left_children", "right_children", "split_indices", "split_conditions", "default_left"]
        nodes = zip(*(tree[field] for field in fields))
        trees.append([
            (LEAF, 0, 0, 0, 0, 0.0, condition) if left == -1 else (feature, left, right, default_left, 0, condition, 0.0)
            for left, right, feature, condition, default_left in nodes
        ])
    return numpy.float32(base), trees


def of_lightgbm(booster):
    trees = []
    for tree in booster.dump_model()["tree_info"]:
        nodes = []

        def visit(node):
            at = len(nodes)
            nodes.append(None)
            if "leaf_value" in node:
                nodes[at] = (LEAF, 0, 0, 0, 0, 0.0, node["leaf_value"])
                return at
            assert node["decision_type"] == "<=" and node["missing_type"] in ("None", "NaN")
            left, right = visit(node["left_child"]), visit(node["right_child"])
            # x <= t for x in f32 is x < next_up(floor32(t)).
            threshold = numpy.float32(node["threshold"])
            if float(threshold) > node["threshold"]:
                threshold = numpy.nextafter(threshold, numpy.float32(-numpy.inf))
            threshold = numpy.nextafter(threshold, numpy.float32(numpy.inf))
            is_zero = node["missing_type"] == "None"
            nodes[at] = (node["split_feature"], left, right, node["default_left"], is_zero, threshold, 0.0)
            return at

        visit(tree["tree_structure"])
        trees.append(nodes)
    return 0.0, trees


def write(path, forest, is_double):
    base, trees = forest
    with open(path, "wb") as file:
        file.write(struct.pack("<IIId", FEATURES, len(trees), is_double, base))
        for nodes in trees:
            file.write(struct.pack("<I", len(nodes)))
            for node in nodes:
                file.write(struct.pack("<IIIIIfd", *node))


def of_onnx(forest):
    """The same forest as a `TreeEnsembleRegressor`."""
    base, trees = forest
    columns = {field: [] for field in ["treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids"]}
    columns["missing_value_tracks_true"] = []
    targets = {"target_treeids": [], "target_nodeids": [], "target_ids": [], "target_weights": []}
    for number, nodes in enumerate(trees):
        for at, (feature, left, right, default_left, _, threshold, value) in enumerate(nodes):
            is_leaf = feature == LEAF
            mode = "LEAF" if is_leaf else "BRANCH_LT"
            feature = 0 if is_leaf else feature
            row = [number, at, feature, float(threshold), mode, left, right, int(default_left)]
            for column, field in zip(columns.values(), row):
                column.append(field)
            if is_leaf:
                for column, field in zip(targets.values(), [number, at, 0, float(value)]):
                    column.append(field)
    attributes = {f"nodes_{field}": column for field, column in columns.items()} | targets
    node = onnx.helper.make_node(
        "TreeEnsembleRegressor", ["rows"], ["margins"], domain="ai.onnx.ml", n_targets=1, base_values=[float(base)], **attributes
    )
    tensor = onnx.helper.make_tensor_value_info
    ends = [[tensor(name, onnx.TensorProto.FLOAT, [None, width])] for name, width in [("rows", FEATURES), ("margins", 1)]]
    domains = [onnx.helper.make_opsetid("ai.onnx.ml", 3), onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "forest", *ends), opset_imports=domains, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
