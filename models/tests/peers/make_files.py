"""Writes models/tests/fixtures/forests: small models of every format, and what their libraries say of some rows. make_files.py

They are kept with the code, so that its tests need no library, and stay as they are, so that what was once read is read on.
With another XGBoost than the pinned one (numpy, scipy and xgboost-cpu==2.1.4 are enough), it adds only the files of that one.
"""

import json
import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import xgboost as xgb

FOLDER = Path(__file__).parent.parent / "fixtures" / "forests"
FOLDER.mkdir(parents=True, exist_ok=True)
random = np.random.default_rng(7)
x = random.normal(size=(400, 4)).astype(np.float32)
x[:, 3] = random.integers(0, 50, 400)
y = np.exp(x[:, 0] + np.sin(x[:, 3])).astype(np.float32)
holes = x.copy()
holes[random.random(x.shape) < 0.1] = np.nan
rows = holes[:40].copy()
rows[:8, 3] = [-1, -0.5, 0.5, 49.5, 63, 64, 1e9, 2.0**24]
ANSWERS = FOLDER / "answers.json"
files = json.loads(ANSWERS.read_text()) if ANSWERS.exists() else {}
IS_OLD = xgb.__version__.startswith("2.")


def keep(name, rows, margins):
    margins = np.asarray(margins).reshape(len(rows), -1)
    rows, margins = ([[repr(float(value)) for value in row] for row in table] for table in (rows, margins))
    files[name] = {"rows": rows, "margins": margins}


def keep_xgboost(name, parameters, target):
    types = ["q", "q", "q", "c" if parameters.get("multi_strategy") is None else "q"]
    data = xgb.DMatrix(holes, target, feature_names=["a", "b", "c", "d"], feature_types=types)
    booster = xgb.train({"max_depth": 3, "nthread": 1, "seed": 1, **parameters}, data, 3)
    booster.save_model(FOLDER / name)
    asked = xgb.DMatrix(rows, feature_names=["a", "b", "c", "d"], feature_types=types)
    keep(name, rows, xgb.Booster(model_file=FOLDER / name).predict(asked, output_margin=True))


def keep_all_xgboost(prefix):
    keep_xgboost(f"{prefix}.json", {"objective": "binary:logistic"}, y > 1)
    keep_xgboost(f"{prefix}.ubj", {"objective": "multi:softprob", "num_class": 3}, three)
    keep_xgboost(f"{prefix}_dart.json", {"booster": "dart", "rate_drop": 0.5}, y)
    keep_xgboost(f"{prefix}_vectors.ubj", {"multi_strategy": "multi_output_tree"}, np.stack([y, -y], axis=1))
    keep_xgboost(f"{prefix}_vectors.json", {"multi_strategy": "multi_output_tree"}, np.stack([y, -y], axis=1))


def keep_treelite(name, model, rows):
    import treelite

    model.serialize(FOLDER / name)
    keep(name, rows, treelite.gtil.predict(model, rows, pred_margin=True, nthread=1))


def keep_others():
    import lightgbm as lgb
    import treelite
    from sklearn import ensemble

    for name, parameters, target in [
        ("lightgbm.txt", {"objective": "multiclass", "num_class": 3, "zero_as_missing": True}, three),
        ("lightgbm_forest.txt", {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, y),
    ]:
        data = lgb.Dataset(holes, target, categorical_feature=[3])
        settings = {"num_leaves": 6, "min_data_per_group": 5, "num_threads": 1, "seed": 1, "verbosity": -1}
        lgb.train({**settings, **parameters}, data, 4).save_model(FOLDER / name)
        # The raw score of a random forest is a sum, of which LightGBM makes the mean that it predicts only then.
        rounds = 4 if "boosting" in parameters else 1
        keep(name, rows, lgb.Booster(model_file=FOLDER / name).predict(rows, raw_score=True) / rounds)

    forest = ensemble.RandomForestClassifier(4, max_depth=4, random_state=1).fit(holes, three)
    keep_treelite("forest.treelite", treelite.sklearn.import_model(forest), rows)
    histogram = ensemble.HistGradientBoostingRegressor(max_iter=3, max_leaf_nodes=6, categorical_features=[3], random_state=1)
    keep_treelite("histogram.treelite", treelite.sklearn.import_model(histogram.fit(holes, y)), rows)
    isolation = ensemble.IsolationForest(n_estimators=4, max_samples=64, random_state=1).fit(x)
    keep_treelite("isolation.treelite", treelite.sklearn.import_model(isolation), np.nan_to_num(rows))
    keep_treelite("xgboost.treelite", treelite.frontend.load_xgboost_model(str(FOLDER / "xgboost_dart.json")), rows)
    keep_operators("operators32.treelite", "float32")
    keep_operators("operators64.treelite", "float64")


def keep_operators(name, number):
    """Trees of one split for each comparison, at thresholds where they differ, and for sets of categories."""
    from treelite import model_builder as tl

    thresholds = [0.0, 1.5, 0.1, 1e-45, -np.inf, np.inf, 3.4028234663852886e38, 1e300]
    tests = [(op, at, left) for op in ("<", "<=", "==", ">", ">=") for at in thresholds for left in (True, False)]
    tests = [test for test in tests if number == "float64" or test[1] != 1e300]
    sets = [(set_, right, left) for set_ in ([], [0], [1, 31, 32, 70]) for right in (True, False) for left in (True, False)]
    trees = len(tests) + len(sets)
    builder = tl.ModelBuilder(
        threshold_type=number,
        leaf_output_type=number,
        metadata=tl.Metadata(1, "kMultiClf", False, 1, [3], [1, 1]),
        tree_annotation=tl.TreeAnnotation(trees, [0] * trees, [at % 3 for at in range(trees)]),
        postprocessor=tl.PostProcessorFunc("softmax"),
        base_scores=[0.1, -0.2, 1e-9],
    )
    for at, (op, threshold, left) in enumerate(tests + sets):
        builder.start_tree()
        builder.start_node(0)
        if isinstance(op, str):
            builder.numerical_test(0, threshold, default_left=left, opname=op, left_child_key=7, right_child_key=2)
        else:
            builder.categorical_test(0, left, op, threshold, left_child_key=7, right_child_key=2)
        builder.end_node()
        for key, value in [(7, 2.0 ** (at % 40) + 0.1), (2, -0.3)]:
            builder.start_node(key)
            builder.leaf(value)
            builder.end_node()
        builder.end_tree()
    edges = [0, 0.1, 1e-45, 1.5, 2, 31, 32, 33, 70, 96, -1, -0.5, 16777216, 4e9, 3.4028234663852886e38, np.inf, np.nan]
    edges = np.array(edges, dtype=np.float32)
    near = [edges, -edges, np.nextafter(edges, np.float32(np.inf)), np.nextafter(edges, np.float32(-np.inf))]
    keep_treelite(name, builder.commit(), np.concatenate(near).reshape(-1, 1))


three = np.digitize(y, [0.7, 1.5])
keep_all_xgboost("xgboost_2" if IS_OLD else "xgboost")
if not IS_OLD:
    keep_others()
ANSWERS.write_text(json.dumps(files, sort_keys=True) + "\n")
