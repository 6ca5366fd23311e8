//! `engram score`: rows of files through a model. That models give what their own libraries do is tested in `models/tests`;
//! here, that the right columns reach them, in every format, and that what is wrong is told in one line.

mod support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Float64Type;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::{FileWriter, StreamWriter};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use support::engram::{bare, failure};

/// width <= 1.5 and not missing: 0.25; else height <= 10, or missing: 1.0, else -2.0. A LightGBM model as it writes them.
const MODEL: &str = include_str!("support/model.txt");

/// Rows of (height, what is no feature, width), and their scores.
const ROWS: [(Option<f32>, Option<f32>, f64); 5] = [
    (Some(50.0), Some(1.0), 0.25),
    (Some(10.0), Some(2.0), 1.0),
    (Some(10.5), Some(2.0), -2.0),
    (None, Some(2.0), 1.0),
    (Some(11.0), None, -2.0),
];

struct Bed {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let model = folder.path().join("model.txt");
        std::fs::write(&model, MODEL).expect("written");
        Self { folder, model }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    fn score(&self, input: &Path, output: &Path, more: &[&str]) -> std::process::Output {
        let paths = [&self.model, input, output].map(|path| path.to_str().expect("UTF-8").to_owned());
        let mut arguments = vec!["score", "--model", &paths[0], "--input", &paths[1], "--output", &paths[2]];
        arguments.extend(more);
        bare(&arguments).output().expect("engram runs")
    }

    /// The one line that says why it failed.
    fn failure(&self, input: &Path, output: &str, code: i32) -> String {
        let line = failure(&self.score(input, &self.path(output), &[]), code, &["score"]);
        assert!(!self.path(output).exists(), "nothing is left of it");
        line
    }
}

fn rows() -> RecordBatch {
    let heights: Float32Array = ROWS.iter().map(|(height, ..)| *height).collect();
    let widths: Float32Array = ROWS.iter().map(|(_, width, _)| *width).collect();
    let names: StringArray = ROWS.iter().map(|_| Some("somebody")).collect();
    let columns: [(&str, ArrayRef); 3] =
        [("height", Arc::new(heights)), ("name", Arc::new(names)), ("width", Arc::new(widths))];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

/// The numbers of a column.
fn column(batch: &RecordBatch, name: &str) -> Vec<f64> {
    batch.column_by_name(name).expect("the column").as_primitive::<Float64Type>().values().to_vec()
}

#[test]
fn every_format_goes_in_and_comes_out() {
    let bed = Bed::new();
    let expected: Vec<f64> = ROWS.iter().map(|(_, _, score)| *score).collect();
    let batch = rows();
    let file = |name: &str| File::create(bed.path(name)).expect("created");
    let mut parquet = ArrowWriter::try_new(file("rows.parquet"), batch.schema(), None).expect("a writer");
    parquet.write(&batch).expect("written");
    parquet.close().expect("closed");
    let mut arrow = FileWriter::try_new(file("rows.arrow"), &batch.schema()).expect("a writer");
    arrow.write(&batch).expect("written");
    arrow.finish().expect("closed");
    let mut stream = StreamWriter::try_new(file("stream.arrow"), &batch.schema()).expect("a writer");
    stream.write(&batch).expect("written");
    stream.finish().expect("closed");
    bed.write("rows.csv", "height,name,width\n50,a,1.0\n10,b,2\n10.5,c,2\n,d,2\n11,e,NaN\n");

    for input in ["rows.csv", "rows.parquet", "rows.arrow", "stream.arrow"] {
        let output = bed.score(&bed.path(input), &bed.path("scores.parquet"), &["--margin"]);
        assert!(output.status.success(), "{input}: {}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.starts_with("5 rows scored by lightgbm model"), "{said}");
        let scores = File::open(bed.path("scores.parquet")).expect("it is there");
        let mut scores = ParquetRecordBatchReaderBuilder::try_new(scores).expect("Parquet").build().expect("a reader");
        let scores = scores.next().expect("a batch").expect("readable");
        assert_eq!(column(&scores, "score"), expected, "{input}");
        assert_eq!(column(&scores, "margin"), expected, "{input}");
    }
    assert!(bed.score(&bed.path("rows.csv"), &bed.path("scores.csv"), &["--device", "cpu"]).status.success());
    let text = std::fs::read_to_string(bed.path("scores.csv")).expect("it is there");
    assert_eq!(text, "score\n0.25\n1.0\n-2.0\n1.0\n-2.0\n");
    assert!(bed.score(&bed.path("rows.csv"), &bed.path("scores.arrow"), &["--threads", "3"]).status.success());
    let scores = FileReader::try_new(File::open(bed.path("scores.arrow")).expect("it is there"), None);
    let scores = scores.expect("Arrow").next().expect("a batch").expect("readable");
    assert_eq!(column(&scores, "score"), expected);
}

#[test]
fn columns_without_names_are_taken_as_they_come() {
    let bed = Bed::new();
    let input = bed.write("rows.csv", "1.0,50\n2,10\n2,10.5\n2,\n,11\n");
    let output = bed.score(&input, &bed.path("scores.csv"), &["--json"]);
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((figures["rows"].as_u64(), figures["device"].as_str()), (Some(5), Some("cpu")), "{figures}");
    let text = std::fs::read_to_string(bed.path("scores.csv")).expect("it is there");
    assert_eq!(text, "score\n0.25\n1.0\n-2.0\n1.0\n-2.0\n");
    // No rows: no scores, but a file of them.
    let empty = bed.write("empty.csv", "width,height\n");
    assert!(bed.score(&empty, &bed.path("none.csv"), &[]).status.success());
    assert_eq!(std::fs::read_to_string(bed.path("none.csv")).expect("it is there"), "score\n");
}

#[test]
fn what_is_wrong_is_told_in_one_line() {
    let bed = Bed::new();
    let good = bed.write("good.csv", "width,height\n1,2\n");
    let check = |line: String, says: &[&str]| {
        says.iter().for_each(|said| assert!(line.contains(said), "{line}: {said}"));
    };
    check(bed.failure(&good, "scores.txt", 1), &["scores.txt", "ends with .csv, .parquet or .arrow"]);
    check(bed.failure(&bed.path("none.csv"), "scores.csv", 1), &["none.csv cannot be read", "No such file"]);
    let missing = bed.write("missing.csv", "width,length\n1,2\n");
    check(
        bed.failure(&missing, "scores.csv", 1),
        &["missing.csv", "the model wants columns that are not there: height"],
    );
    let narrow = bed.write("narrow.csv", "1\n2\n");
    check(bed.failure(&narrow, "scores.csv", 1), &["the model wants 2 columns, and there are 1"]);
    let text = bed.write("text.csv", "width,height\n1,2\nwide,2\n");
    check(bed.failure(&text, "scores.csv", 1), &["text.csv cannot be read", "wide", "line 3"]);
    let ragged = bed.write("ragged.csv", "width,height\n1,2\n1\n");
    check(bed.failure(&ragged, "scores.csv", 1), &["ragged.csv cannot be read"]);
    let empty = bed.write("empty.csv", "");
    check(bed.failure(&empty, "scores.csv", 1), &["empty.csv cannot be read: it is empty"]);
    let garbage = bed.write("garbage.parquet", "no such thing as Parquet");
    check(bed.failure(&garbage, "scores.csv", 1), &["garbage.parquet cannot be read"]);
    let garbage = bed.write("garbage.arrow", "no such thing as Arrow, neither a file nor a stream");
    check(bed.failure(&garbage, "scores.csv", 1), &["garbage.arrow cannot be read"]);

    let words = RecordBatch::try_from_iter([
        ("width", Arc::new(StringArray::from(vec!["wide"])) as ArrayRef),
        ("height", Arc::new(Int64Array::from(vec![1]))),
    ]);
    let words = words.expect("columns of one length");
    let mut writer =
        ArrowWriter::try_new(File::create(bed.path("words.parquet")).expect("created"), words.schema(), None)
            .expect("a writer");
    writer.write(&words).expect("written");
    writer.close().expect("closed");
    check(bed.failure(&bed.path("words.parquet"), "scores.csv", 1), &["column width has Utf8; numbers are wanted"]);

    // A whole file from before stays as it is when a new one comes to nothing.
    assert!(bed.score(&good, &bed.path("scores.csv"), &[]).status.success());
    let before = std::fs::read(bed.path("scores.csv")).expect("it is there");
    assert!(!bed.score(&text, &bed.path("scores.csv"), &[]).status.success());
    assert_eq!(std::fs::read(bed.path("scores.csv")).expect("it is there"), before);

    let (whole, bed) = (MODEL.len(), Bed { model: bed.path("cut.txt"), ..bed });
    std::fs::write(&bed.model, &MODEL[..whole / 2]).expect("written");
    check(bed.failure(&good, "others.csv", 1), &["cut.txt cannot be read", "lightgbm"]);
    std::fs::write(&bed.model, "no model at all").expect("written");
    check(bed.failure(&good, "others.csv", 1), &["cut.txt cannot be read", "XGBoost JSON or UBJSON"]);
}
