"""Writes models/tests/files: small models of every format, and what their libraries say of some rows. make_files.py

They are kept with the code, so that its tests need no library, and stay as they are, so that what was once read is read on.
"""

import json
import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import lightgbm as lgb
import numpy as np
import treelite
import xgboost as xgb
from sklearn import ensemble

FOLDER = Path(__file__).parent.parent / "files"
FOLDER.mkdir(exist_ok=True)
random = np.random.default_rng(7)
x = random.normal(size=(400, 4)).astype(np.float32)
x[:, 3] = random.integers(0, 50, 400)
y = np.exp(x[:, 0] + np.sin(x[:, 3])).astype(np.float32)
holes = x.copy()
holes[random.random(x.shape) < 0.1] = np.nan
rows = holes[:40].copy()
rows[:8, 3] = [-1, -0.5, 0.5, 49.5, 63, 64, 1e9, 2.0**24]
files = {}


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


def keep_treelite(name, model, rows):
    model.serialize(FOLDER / name)
    keep(name, rows, treelite.gtil.predict(model, rows, pred_margin=True, nthread=1))


three = np.digitize(y, [0.7, 1.5])
keep_xgboost("xgboost.json", {"objective": "binary:logistic"}, y > 1)
keep_xgboost("xgboost.ubj", {"objective": "multi:softprob", "num_class": 3}, three)
keep_xgboost("xgboost_dart.json", {"booster": "dart", "rate_drop": 0.5}, y)
keep_xgboost("xgboost_vectors.ubj", {"multi_strategy": "multi_output_tree"}, np.stack([y, -y], axis=1))

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

(FOLDER / "answers.json").write_text(json.dumps(files) + "\n")
