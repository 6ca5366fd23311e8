//! The series of the Numenta Anomaly Benchmark that are here, and their labelled windows.

use std::path::PathBuf;

use serde_json::Value;

/// A series.
pub struct Series {
    /// "realKnownCause/nyc_taxi.csv".
    pub name: String,
    pub times_ms: Vec<i64>,
    pub values: Vec<f64>,
    /// First and last row of each window, in order.
    pub windows: Vec<(usize, usize)>,
}

/// In the order of their names; `None`, having said so, where the benchmark is not.
pub fn read() -> Option<Vec<Series>> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/nab");
    let folder = PathBuf::from(std::env::var("ENGRAM_NAB").unwrap_or_else(|_| beside.to_owned()));
    let Ok(labels) = std::fs::read_to_string(folder.join("combined_windows.json")) else {
        println!(
            "skipped: {} has no combined_windows.json: copy `data/*` and `labels/combined_windows.json` of \
             https://github.com/numenta/NAB there, or name the folder in ENGRAM_NAB",
            folder.display()
        );
        return None;
    };
    let labels: Value = serde_json::from_str(&labels).expect("combined_windows.json is JSON");
    let mut all = Vec::new();
    for (name, windows) in labels.as_object().expect("windows by the names of files") {
        // The labels are those of all 58 files.
        let Ok(rows) = std::fs::read_to_string(folder.join(name)) else { continue };
        all.push(series(name, &rows, windows));
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!all.is_empty(), "{} has labels and no series", folder.display());
    Some(all)
}

fn series(name: &str, rows: &str, windows: &Value) -> Series {
    let mut times = Vec::new();
    let mut values = Vec::new();
    for row in rows.lines().skip(1) {
        let (time, value) = row.split_once(',').expect("a time and a value");
        times.push(time);
        values.push(value.parse().expect("a number"));
    }
    // "2014-02-26 13:45:00.000000"; a row has no fraction. Where a time comes twice (clocks were set back) NAB takes the first.
    let row_of = |time: &Value| {
        let time = time.as_str().and_then(|time| time.get(..19)).expect("a time");
        times.iter().position(|of| *of == time).unwrap_or_else(|| panic!("{name} has no row of {time}"))
    };
    let windows = windows.as_array().expect("windows").iter().map(|window| (row_of(&window[0]), row_of(&window[1])));
    Series {
        name: name.to_owned(),
        windows: windows.collect(),
        times_ms: times.into_iter().map(time_ms).collect(),
        values,
    }
}

/// Of "2014-02-26 13:45:00", taken as UTC.
fn time_ms(text: &str) -> i64 {
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().expect("a number of a time");
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    // Days of the civil calendar: a year begins in March, so that the leap day is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    (((days * 24 + number(11, 13)) * 60 + number(14, 16)) * 60 + number(17, 19)) * 1000
}

#[test]
fn times_are_read() {
    assert_eq!(time_ms("1970-01-01 00:00:00"), 0);
    assert_eq!(time_ms("2014-02-26 13:45:00"), 1_393_422_300_000);
    assert_eq!(time_ms("2016-02-29 00:00:01"), 1_456_704_001_000);
}
