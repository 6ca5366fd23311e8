"""An isolation forest of scikit-learn for the Shuttle data, and the data as events. make_shuttle.py FOLDER

Statlog (Shuttle), UCI, cast as anomaly detection: 49,097 rows of 9 sensors, 7 % of them anomalies. River's wheel has it.
Writes model.treelite, features.toml, events.ndjson (engram.telemetry.Sample; a row's number is its time) and expected.csv: each
row's label, and its score by scikit-learn, the greater the more anomalous.
"""

import csv
import gzip
import json
import sys
from importlib.metadata import files
from pathlib import Path

import numpy as np
import treelite
from sklearn.ensemble import IsolationForest

FOLDER = Path(sys.argv[1])
(path,) = [file.locate() for file in files("river") if file.name == "shuttle.csv.gz"]
with gzip.open(path, "rt") as lines:
    names, *rows = csv.reader(lines)
assert names[-1] == "anomaly"
names = names[:-1]
x = np.array([row[:-1] for row in rows], dtype=np.float32)
model = IsolationForest(n_estimators=100, random_state=0).fit(x)
treelite.sklearn.import_model(model).serialize(FOLDER / "model.treelite")
features = "".join(f'[[features]]\nfield = "values.{name}"\n' for name in names)
declaration = 'topic = "telemetry.metrics"\nevent = "engram.telemetry.Sample"\nseries = "entity"\ntime = "time"\n'
(FOLDER / "features.toml").write_text(declaration + features)
with open(FOLDER / "events.ndjson", "w") as events:
    for number, row in enumerate(x):
        values = {name: float(value) for name, value in zip(names, row)}
        events.write(json.dumps({"time": number, "entity": f"shuttle-{number % 16}", "values": values}) + "\n")
with open(FOLDER / "expected.csv", "w") as expected:
    for row, score in zip(rows, -model.score_samples(x)):
        expected.write(f"{row[-1]},{float(score)!r}\n")
