"""Trains models with their own libraries and writes down what these say of 100,000 rows: make_models.py FOLDER [NAME ..]

FOLDER/manifest.json lists the cases. Rows are f32, column by column; answers are the peer's own f32 or f64, row by row. All is
little-endian. Rows hold what decides wrongly first: values at thresholds and next to them, zeros of both signs, subnormals, huge
values, missing values, infinities and numbers that are no category, as far as the peer takes them.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path

# More threads than free cores wait for each other in busy loops.
os.environ["OMP_NUM_THREADS"] = "1"

import lightgbm as lgb
import numpy as np
import treelite
import xgboost as xgb
from sklearn import ensemble

ROWS = 100_000
TRAINED = 4_000
FOLDER = Path(sys.argv[1])
WANTED = sys.argv[2:]
warnings.filterwarnings("ignore")
xgb.set_config(verbosity=0)

# Columns of the data: numbers, then categories of so many values.
NUMBERS = 10
CATEGORIES = (4, 40, 300)


def training(seed, missing=False, categories=False, zeros=False):
    """Rows to train with, and a target above zero."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(TRAINED, NUMBERS + len(CATEGORIES))).astype(np.float32)
    x[:, 1] *= 1e6
    x[:, 2] *= 1e-6
    x[:, 3] = np.round(x[:, 3] * 3)
    effect = np.zeros(TRAINED)
    if categories:
        for column, count in enumerate(CATEGORIES, NUMBERS):
            x[:, column] = random.integers(0, count, TRAINED)
            effect += random.normal(size=count)[x[:, column].astype(int)]
    target = np.exp(0.4 * (np.sin(2 * x[:, 0]) + x[:, 1] / 1e6 * x[:, 4] + 0.5 * np.abs(x[:, 3]) + effect))
    target += random.gamma(0.5, size=TRAINED)
    if missing:
        x[random.random(x.shape) < 0.1] = np.nan
    if zeros:
        x[random.random(x.shape) < 0.4] = 0
    return x, target.astype(np.float32)


def questions(seed, x, thresholds, missing=True, infinite=True, categories=False):
    """Rows to ask about: `thresholds` has the splits' values by column."""
    random = np.random.default_rng(seed)
    rows = x[random.integers(0, len(x), ROWS)].copy()
    for column in range(rows.shape[1]):
        is_category = categories and column >= NUMBERS
        at = np.array(sorted(thresholds.get(column, {0.0})), dtype=np.float32)
        near = [at, np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(-np.inf))]
        near = np.concatenate(near).astype(np.float32)
        edges = [0.0, -0.0, 1e-45, -1e-45, 1e-40, 1e-35, -1e-35, 2e-35, 1e-20, 3e38, -3e38, 16777216.0]
        if is_category:
            near = np.arange(CATEGORIES[column - NUMBERS] + 40).astype(np.float32)
            edges += [-1, -0.5, -0.99, 0.5, 3.7, 31.99, 32, 16777215, 2147483648, 4294967296, -2147483648]
        if infinite:
            edges += [np.inf, -np.inf]
        if missing:
            edges += [np.nan] * 6
        replaced = random.random(ROWS)
        rows[:, column] = np.where(replaced < 0.3, random.choice(near, ROWS), rows[:, column])
        rows[:, column] = np.where(replaced > 0.93, random.choice(np.array(edges, dtype=np.float32), ROWS), rows[:, column])
    if not infinite:
        rows = np.clip(rows, np.float32(-3e38), np.float32(3e38))
    if not missing:
        rows[np.isnan(rows)] = 0
    return rows


CASES = []


def write(name, file, rows, answers):
    """A case. `answers` are triples: "margins" or "scores", the peer, and what it says."""
    rows.astype("<f4").T.tofile(FOLDER / f"{name}.rows")
    case = {"name": name, "model": file, "rows": f"{name}.rows", "columns": rows.shape[1], "answers": []}
    for of, peer, values in answers:
        values = np.ascontiguousarray(values).reshape(len(rows), -1)
        kind = {"f4": "f32", "f8": "f64"}[values.dtype.str[1:]]
        file = f"{name}.{of}.{peer}"
        values.tofile(FOLDER / file)
        case["answers"].append({"of": of, "peer": peer, "file": file, "type": kind, "columns": values.shape[1]})
    CASES.append(case)


def collect(splits):
    thresholds = {}
    for column, threshold in splits:
        thresholds.setdefault(int(column), set()).add(float(threshold))
    return thresholds


def xgboost(name, suffix, parameters, rounds, missing=True, categories=False, target=lambda y: y, group=False):
    seed = len(CASES)
    x, y = training(seed, missing=missing, categories=categories)
    names = [f"column {column}" for column in range(x.shape[1])]
    types = ["q"] * NUMBERS + ["c" if categories else "q"] * len(CATEGORIES)
    data = xgb.DMatrix(x, target(y), feature_names=names, feature_types=types)
    if group:
        data.set_group([100] * (TRAINED // 100))
    if parameters.get("objective") == "survival:aft":
        data.set_float_info("label_lower_bound", y)
        data.set_float_info("label_upper_bound", y + 1)
    booster = xgb.train({"nthread": 1, "seed": seed, **parameters}, data, rounds)
    booster.save_model(FOLDER / f"{name}.{suffix}")
    model = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]
    model = model.get("gbtree", model)["model"]
    splits = ((c, t) for tree in model.get("trees", []) for c, t in zip(tree["split_indices"], tree["split_conditions"]))
    rows = questions(seed, x, collect(splits), missing=missing, infinite=False, categories=categories)
    loaded = xgb.Booster(model_file=FOLDER / f"{name}.{suffix}")
    loaded.set_param({"nthread": 1})
    asked = xgb.DMatrix(rows, feature_names=names, feature_types=types)
    margins = loaded.predict(asked, output_margin=True)
    write(name, f"{name}.{suffix}", rows, [("margins", "xgboost", margins), ("scores", "xgboost", loaded.predict(asked))])


def lightgbm(name, parameters, rounds, missing=True, categories=False, zeros=False, target=lambda y: y, group=False):
    seed = len(CASES)
    x, y = training(seed, missing=missing, categories=categories, zeros=zeros)
    columns = list(range(NUMBERS, x.shape[1])) if categories else []
    data = lgb.Dataset(x, target(y), categorical_feature=columns, group=[100] * (TRAINED // 100) if group else None)
    booster = lgb.train({"num_threads": 1, "seed": seed, "verbosity": -1, **parameters}, data, rounds)
    booster.save_model(FOLDER / f"{name}.txt")
    splits = []
    open_nodes = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    while open_nodes:
        node = open_nodes.pop()
        if "split_feature" in node:
            if node["decision_type"] == "<=":
                splits.append((node["split_feature"], node["threshold"]))
            open_nodes += [node["left_child"], node["right_child"]]
    rows = questions(seed, x, collect(splits), categories=categories)
    loaded = lgb.Booster(model_file=FOLDER / f"{name}.txt")
    # The raw score of a random forest is a sum, of which LightGBM makes the mean that it predicts only then.
    divisor = rounds if parameters.get("boosting") == "rf" else 1
    answers = [("margins", "lightgbm", loaded.predict(rows, raw_score=True, num_threads=1) / divisor)]
    if rounds < 1000:
        answers.append(("scores", "lightgbm", loaded.predict(rows, num_threads=1)))
    write(name, f"{name}.txt", rows, answers)


def sklearn(name, model, missing=False, categories=False, target=lambda y: y):
    seed = len(CASES)
    x, y = training(seed, missing=missing, categories=categories)
    model.fit(x, target(y))
    trees = [tree for tree in np.ravel(getattr(model, "estimators_", [])) if hasattr(tree, "tree_")]
    splits = [(c, t) for tree in trees for c, t in zip(tree.tree_.feature, tree.tree_.threshold)]
    rows = questions(seed, x, collect(splits), missing=missing, infinite=False, categories=categories)
    if hasattr(model, "score_samples"):
        says = -model.score_samples(rows)
    elif hasattr(model, "predict_proba"):
        says = model.predict_proba(rows)
        is_one = says.shape[1] == 2 and hasattr(model, "loss")
        says = says[:, 1] if is_one else says
    else:
        says = model.predict(rows)
    # What scikit-learn encodes before its trees is not in them: it takes an unknown category for a missing value.
    answers = [] if categories else [("scores", "sklearn", says)]
    through_treelite(name, treelite.sklearn.import_model(model), rows, answers)


def through_treelite(name, model, rows, answers):
    model.serialize(FOLDER / f"{name}.treelite")
    answers.append(("margins", "gtil", treelite.gtil.predict(model, rows, pred_margin=True, nthread=1)))
    if not model.get_header_accessor().get_field("postprocessor").startswith("identity"):
        answers.append(("scores", "gtil", treelite.gtil.predict(model, rows, nthread=1)))
    write(name, f"{name}.treelite", rows, answers)


def classes(count):
    return lambda y: np.digitize(y, np.quantile(y, np.arange(1, count) / count))


def several(y):
    return np.stack([y, np.sqrt(y), -y], axis=1)


def both(y):
    return np.stack([y > 2, y > 1], axis=1)


def imported(name, source, load):
    """A case above, brought to Treelite."""
    found = [case for case in CASES if case["name"] == source]
    if found:
        rows = np.fromfile(FOLDER / found[0]["rows"], dtype="<f4").reshape(found[0]["columns"], -1).T
        through_treelite(name, load(str(FOLDER / found[0]["model"])), np.ascontiguousarray(rows), [])


BINARY = {"target": classes(2)}
MODELS = {
    "xgboost_stump": lambda n: xgboost(n, "json", {"objective": "binary:logistic", "max_depth": 1}, 1, **BINARY),
    "xgboost_regression": lambda n: xgboost(n, "ubj", {"max_depth": 6}, 100),
    "xgboost_deep": lambda n: xgboost(n, "json", {"max_depth": 14}, 20),
    "xgboost_many": lambda n: xgboost(n, "ubj", {"max_depth": 10, "eta": 0.02, "min_child_weight": 80}, 1000),
    "xgboost_leafwise": lambda n: xgboost(n, "json", {"grow_policy": "lossguide", "max_leaves": 40, "max_depth": 0}, 50),
    "xgboost_pruned": lambda n: xgboost(n, "json", {"tree_method": "exact", "gamma": 20, "max_depth": 8}, 40),
    "xgboost_logistic": lambda n: xgboost(n, "ubj", {"objective": "binary:logistic", "max_depth": 5}, 200, **BINARY),
    "xgboost_logitraw": lambda n: xgboost(n, "json", {"objective": "binary:logitraw", "max_depth": 3}, 30, **BINARY),
    "xgboost_certain": lambda n: xgboost(
        n, "json", {"objective": "binary:logistic", "eta": 4, "lambda": 0, "base_score": 0.2}, 10, **BINARY
    ),
    "xgboost_hinge": lambda n: xgboost(n, "json", {"objective": "binary:hinge", "max_depth": 3}, 30, **BINARY),
    "xgboost_softprob": lambda n: xgboost(
        n, "json", {"objective": "multi:softprob", "num_class": 5, "max_depth": 4}, 40, target=classes(5)
    ),
    "xgboost_softmax": lambda n: xgboost(
        n, "ubj", {"objective": "multi:softmax", "num_class": 3, "max_depth": 7}, 30, target=classes(3)
    ),
    "xgboost_poisson": lambda n: xgboost(n, "json", {"objective": "count:poisson"}, 50, target=np.round),
    "xgboost_gamma": lambda n: xgboost(n, "ubj", {"objective": "reg:gamma"}, 50),
    "xgboost_tweedie": lambda n: xgboost(n, "json", {"objective": "reg:tweedie"}, 50),
    "xgboost_cox": lambda n: xgboost(n, "json", {"objective": "survival:cox", "max_depth": 3}, 20),
    "xgboost_aft": lambda n: xgboost(n, "json", {"objective": "survival:aft", "max_depth": 3}, 20),
    "xgboost_rank": lambda n: xgboost(n, "ubj", {"objective": "rank:ndcg"}, 30, target=classes(4), group=True),
    "xgboost_quantile": lambda n: xgboost(n, "json", {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.9]}, 20),
    "xgboost_dart": lambda n: xgboost(n, "json", {"booster": "dart", "rate_drop": 0.2}, 60),
    "xgboost_dart_softprob": lambda n: xgboost(
        n, "ubj", {"booster": "dart", "rate_drop": 0.2, "objective": "multi:softprob", "num_class": 3}, 20, target=classes(3)
    ),
    "xgboost_linear": lambda n: xgboost(n, "json", {"booster": "gblinear"}, 20, missing=False),
    "xgboost_linear_softprob": lambda n: xgboost(
        n,
        "ubj",
        {"booster": "gblinear", "objective": "multi:softprob", "num_class": 3},
        20,
        target=classes(3),
        missing=False,
    ),
    "xgboost_categories": lambda n: xgboost(n, "json", {"max_depth": 7}, 60, categories=True),
    "xgboost_categories_one_hot": lambda n: xgboost(n, "ubj", {"max_cat_to_onehot": 500}, 60, categories=True),
    "xgboost_forest": lambda n: xgboost(
        n, "ubj", {"num_parallel_tree": 100, "subsample": 0.6, "colsample_bynode": 0.5, "max_depth": 8, "eta": 1}, 1
    ),
    "xgboost_targets": lambda n: xgboost(n, "json", {"max_depth": 5}, 20, target=several),
    "xgboost_vectors": lambda n: xgboost(
        n, "ubj", {"max_depth": 5, "multi_strategy": "multi_output_tree"}, 20, target=several
    ),
    "xgboost_vectors_logistic": lambda n: xgboost(
        n,
        "json",
        {"max_depth": 5, "multi_strategy": "multi_output_tree", "objective": "binary:logistic"},
        20,
        target=both,
    ),
    "lightgbm_binary": lambda n: lightgbm(n, {"objective": "binary"}, 100, **BINARY),
    "lightgbm_binary_sigmoid": lambda n: lightgbm(n, {"objective": "binary", "sigmoid": 0.7}, 20, **BINARY),
    "lightgbm_regression": lambda n: lightgbm(n, {"objective": "regression", "num_leaves": 127}, 40),
    "lightgbm_regression_sqrt": lambda n: lightgbm(n, {"objective": "regression", "reg_sqrt": True}, 50),
    "lightgbm_many": lambda n: lightgbm(n, {"objective": "regression", "learning_rate": 0.02, "num_leaves": 15}, 1000),
    "lightgbm_deep": lambda n: lightgbm(n, {"objective": "l1", "num_leaves": 1500, "min_data_in_leaf": 1}, 10),
    "lightgbm_constant": lambda n: lightgbm(n, {"objective": "regression", "min_data_in_leaf": 3000}, 3),
    "lightgbm_huber": lambda n: lightgbm(n, {"objective": "huber"}, 30),
    "lightgbm_quantile": lambda n: lightgbm(n, {"objective": "quantile", "alpha": 0.9}, 30),
    "lightgbm_poisson": lambda n: lightgbm(n, {"objective": "poisson"}, 50, target=np.round),
    "lightgbm_tweedie": lambda n: lightgbm(n, {"objective": "tweedie"}, 50),
    "lightgbm_gamma": lambda n: lightgbm(n, {"objective": "gamma"}, 50),
    "lightgbm_multiclass": lambda n: lightgbm(n, {"objective": "multiclass", "num_class": 5}, 40, target=classes(5)),
    "lightgbm_ova": lambda n: lightgbm(
        n, {"objective": "multiclassova", "num_class": 3, "sigmoid": 1.5}, 40, target=classes(3)
    ),
    "lightgbm_cross_entropy": lambda n: lightgbm(n, {"objective": "cross_entropy"}, 30, target=lambda y: y / y.max()),
    "lightgbm_cross_entropy_lambda": lambda n: lightgbm(
        n, {"objective": "cross_entropy_lambda"}, 30, target=lambda y: y / y.max()
    ),
    "lightgbm_rank": lambda n: lightgbm(n, {"objective": "lambdarank"}, 30, target=classes(4), group=True),
    "lightgbm_forest": lambda n: lightgbm(
        n, {"objective": "binary", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}, 33, **BINARY
    ),
    "lightgbm_forest_multiclass": lambda n: lightgbm(
        n,
        {"objective": "multiclass", "num_class": 3, "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6},
        12,
        target=classes(3),
    ),
    "lightgbm_dart": lambda n: lightgbm(n, {"objective": "regression", "boosting": "dart"}, 60),
    "lightgbm_categories": lambda n: lightgbm(
        n, {"objective": "regression", "min_data_per_group": 5, "cat_smooth": 1}, 80, categories=True
    ),
    "lightgbm_categories_whole": lambda n: lightgbm(
        n, {"objective": "binary", "min_data_per_group": 5}, 50, categories=True, missing=False, **BINARY
    ),
    "lightgbm_zero_as_missing": lambda n: lightgbm(
        n, {"objective": "regression", "zero_as_missing": True}, 60, zeros=True, categories=True
    ),
    "lightgbm_zeros": lambda n: lightgbm(n, {"objective": "regression"}, 60, zeros=True),
    "lightgbm_no_missing": lambda n: lightgbm(n, {"objective": "regression", "use_missing": False}, 60, zeros=True),
    "lightgbm_whole": lambda n: lightgbm(n, {"objective": "regression"}, 60, missing=False),
    "sklearn_forest_classifier": lambda n: sklearn(
        n, ensemble.RandomForestClassifier(60, max_depth=12, random_state=1), missing=True, target=classes(4)
    ),
    "sklearn_forest_binary": lambda n: sklearn(n, ensemble.RandomForestClassifier(30, random_state=1), target=classes(2)),
    "sklearn_forest_regressor": lambda n: sklearn(n, ensemble.RandomForestRegressor(15, random_state=1), missing=True),
    "sklearn_forest_targets": lambda n: sklearn(
        n, ensemble.RandomForestRegressor(20, max_depth=9, random_state=1), target=several
    ),
    "sklearn_extra_classifier": lambda n: sklearn(
        n, ensemble.ExtraTreesClassifier(60, max_depth=14, random_state=1), target=classes(3)
    ),
    "sklearn_extra_regressor": lambda n: sklearn(n, ensemble.ExtraTreesRegressor(15, max_depth=14, random_state=1)),
    "sklearn_boosting_regressor": lambda n: sklearn(n, ensemble.GradientBoostingRegressor(n_estimators=80, random_state=1)),
    "sklearn_boosting_binary": lambda n: sklearn(
        n, ensemble.GradientBoostingClassifier(n_estimators=60, random_state=1), target=classes(2)
    ),
    "sklearn_boosting_classifier": lambda n: sklearn(
        n, ensemble.GradientBoostingClassifier(n_estimators=25, random_state=1), target=classes(3)
    ),
    "sklearn_histogram_regressor": lambda n: sklearn(
        n, ensemble.HistGradientBoostingRegressor(max_iter=50, random_state=1), missing=True
    ),
    "sklearn_histogram_categories": lambda n: sklearn(
        n,
        ensemble.HistGradientBoostingRegressor(max_iter=50, categorical_features=[10, 11], random_state=1),
        missing=True,
        categories=True,
    ),
    "sklearn_isolation": lambda n: sklearn(n, ensemble.IsolationForest(n_estimators=100, random_state=1)),
    "treelite_of_xgboost": lambda n: imported(n, "xgboost_softprob", treelite.frontend.load_xgboost_model),
    "treelite_of_xgboost_logistic": lambda n: imported(n, "xgboost_stump", treelite.frontend.load_xgboost_model),
    "treelite_of_xgboost_categories": lambda n: imported(n, "xgboost_categories", treelite.frontend.load_xgboost_model),
    "treelite_of_lightgbm": lambda n: imported(n, "lightgbm_ova", treelite.frontend.load_lightgbm_model),
    "treelite_of_lightgbm_forest": lambda n: imported(n, "lightgbm_forest", treelite.frontend.load_lightgbm_model),
}

for name, make in MODELS.items():
    if not WANTED or name in WANTED:
        started = time.perf_counter()
        make(name)
        print(f"{name}: {time.perf_counter() - started:.2f} s", flush=True)
(FOLDER / "manifest.json").write_text(json.dumps({"rows": ROWS, "cases": CASES}))
