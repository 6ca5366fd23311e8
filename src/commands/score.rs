//! `engram score`: a model's scores of a file's rows, without a log.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use arrow::array::{ArrayRef, Float32Array, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use engram_models::chooser::Place;
use engram_models::clock::{Clock, Monotonic};
use engram_models::device::CpuDevice;
use engram_models::guard::{self, Guard};
use engram_models::link::Precision;
use engram_models::{Model, ModelFile};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::stop_flag;
use crate::cli::{Device, Global, Score};
use crate::models;
use crate::output;
use crate::tables::{Table, TableWriter};

/// Columns that a message names.
const NAMED_MAX: usize = 5;

pub fn run(global: &Global, args: &Score) -> anyhow::Result<()> {
    let stop = stop_flag()?;
    let started = Instant::now();
    let ModelFile::Model(model) = models::read(&args.model)? else {
        bail!("a detector scores series of events, not files: load it with 'engram models load'");
    };
    let table = Table::open(&args.input)?;
    let columns = choose(&model, &table).with_context(|| args.input.display().to_string())?;
    let threads = args.threads.map_or_else(cores, usize::from);
    let mut scorer = scorer(&model, args.device, threads)?;
    let schema = Arc::new(schema(&model, args.margin));
    let mut writer = TableWriter::create(&args.output, &schema)?;
    let progress = progress(table.rows());
    let (mut rows, mut rows_by_gpu, mut scoring, mut first) = (0_u64, 0_u64, Duration::ZERO, None);
    for batch in table.read(&columns)? {
        let batch = batch?;
        let began = Instant::now();
        let (margins, place) = scorer(&batch)?;
        let scores = model.scores(&margins);
        scoring += began.elapsed();
        first.get_or_insert_with(|| started.elapsed());
        writer.write(&scored(&schema, &model, &margins, &scores)?)?;
        let of_batch = batch.first().map_or(0, |column| column.len() as u64);
        rows += of_batch;
        rows_by_gpu += if place == Place::Gpu { of_batch } else { 0 };
        progress.set_position(rows);
        if stop.load(Ordering::Relaxed) {
            bail!("stopped after {rows} rows: {} was not written", args.output.display());
        }
    }
    if rows == 0 {
        writer.write(&RecordBatch::new_empty(schema))?;
    }
    writer.finish()?;
    progress.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    let device = match rows_by_gpu {
        0 => "cpu",
        some if some == rows => "gpu",
        _ => "both",
    };
    let first_ms = first.map(|first| first.as_secs_f64() * 1_000.0);
    if global.json {
        return Ok(output::json(&json!({
            "model": model.hash, "format": model.format, "device": device, "threads": threads, "rows": rows,
            "rows_by_gpu": rows_by_gpu, "seconds": seconds, "scoring_seconds": scoring.as_secs_f64(), "first_score_ms": first_ms
        }))?);
    }
    let rate = |seconds: f64| if seconds > 0.0 { rows as f64 / seconds } else { 0.0 };
    output::line(format_args!(
        "{rows} rows scored by {} model {} on the {}: {seconds:.2} s, {:.0} rows/s; scoring alone {:.0} rows/s",
        model.format,
        &model.hash[..12],
        match rows_by_gpu {
            0 => format!("CPU, {threads} threads"),
            some if some == rows => "GPU".to_owned(),
            some => format!("CPU, {threads} threads, and {some} of them on the GPU"),
        },
        rate(seconds),
        rate(scoring.as_secs_f64()),
    ))?;
    Ok(())
}

/// Scores a batch, and tells where.
type ScoreBatch = Box<dyn FnMut(&[Float32Array]) -> anyhow::Result<(Vec<f64>, Place)>>;

/// The model on the device that is asked for; `auto` is a GPU where there is one, for the batches for which it is faster.
fn scorer(model: &Model, device: Device, threads: usize) -> anyhow::Result<ScoreBatch> {
    let (cpu, clock): (_, Arc<dyn Clock>) = (CpuDevice::new(threads), Arc::new(Monotonic::default()));
    let gpu = match device {
        Device::Cpu => None,
        Device::Auto => models::gpu(&clock).ok(),
        Device::Gpu => {
            let gpu = models::gpu(&clock).context("give --device cpu or auto")?;
            let mut scorer = gpu.load(model)?;
            return Ok(Box::new(move |batch| {
                // The device ends with the last that has it.
                let _ = &gpu;
                Ok((scorer.score(batch)?, Place::Gpu))
            }));
        }
    };
    let mut guard = Guard::new(model.clone(), &cpu, gpu, clock, guard::Settings::default())?;
    Ok(Box::new(move |batch| {
        let scored = guard.score(batch)?;
        Ok((scored.margins, scored.place))
    }))
}

/// The file's columns in the order in which the model wants them: by name where both have names, otherwise as they come.
fn choose(model: &Model, table: &Table) -> anyhow::Result<Vec<usize>> {
    let wanted = model.features();
    if let Some(names) = table.names()
        && !model.names.is_empty()
    {
        let found: Vec<Option<usize>> =
            model.names.iter().map(|wanted| names.iter().position(|name| name == wanted)).collect();
        let missing: Vec<&str> = model
            .names
            .iter()
            .zip(&found)
            .filter(|(_, found)| found.is_none())
            .map(|(name, _)| name.as_str())
            .collect();
        if missing.is_empty() {
            return Ok(found.into_iter().flatten().collect());
        }
        // A model that was trained without names has made some up.
        if missing.len() < model.names.len() || !are_made_up(&model.names) {
            bail!("the model wants columns that are not there: {}", listed(&missing));
        }
    }
    if table.width() != wanted {
        bail!("the model wants {wanted} columns, and there are {}", table.width());
    }
    Ok((0..wanted).collect())
}

/// `Column_0` is LightGBM's, `f0` XGBoost's, `x0` that of scikit-learn's converters.
fn are_made_up(names: &[String]) -> bool {
    ["Column_", "f", "x"]
        .iter()
        .any(|prefix| names.iter().enumerate().all(|(number, name)| *name == format!("{prefix}{number}")))
}

fn listed(names: &[&str]) -> String {
    let shown = names[..names.len().min(NAMED_MAX)].join(", ");
    if names.len() > NAMED_MAX { format!("{shown} and {} more", names.len() - NAMED_MAX) } else { shown }
}

/// `score`, and `margin` if wanted; numbered where a row has several.
fn schema(model: &Model, with_margins: bool) -> Schema {
    let kind = match model.precision() {
        Precision::Single => DataType::Float32,
        Precision::Double => DataType::Float64,
    };
    let fields = |name: &str, count: usize| -> Vec<Field> {
        let name = |number: usize| if count == 1 { name.to_owned() } else { format!("{name}_{number}") };
        (0..count).map(|number| Field::new(name(number), kind.clone(), false)).collect()
    };
    let mut columns = fields("score", model.scores_width());
    if with_margins {
        columns.extend(fields("margin", model.margins()));
    }
    Schema::new(columns)
}

fn scored(schema: &Arc<Schema>, model: &Model, margins: &[f64], scores: &[f64]) -> anyhow::Result<RecordBatch> {
    let width = model.scores_width();
    let of_margins = schema.fields().len() - width;
    let column = |values: &[f64], at: usize, width: usize| -> ArrayRef {
        let values = values.iter().skip(at).step_by(width).copied();
        match model.precision() {
            Precision::Single => Arc::new(Float32Array::from_iter_values(values.map(|value| value as f32))),
            Precision::Double => Arc::new(Float64Array::from_iter_values(values)),
        }
    };
    let scores = (0..width).map(|at| column(scores, at, width));
    let margins = (0..of_margins).map(|at| column(margins, at, of_margins));
    Ok(RecordBatch::try_new(Arc::clone(schema), scores.chain(margins).collect())?)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn progress(rows: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    match rows {
        Some(rows) => {
            let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} rows {eta}");
            ProgressBar::new(rows).with_style(style.expect("a constant that parses"))
        }
        None => {
            let style = ProgressStyle::with_template("{spinner} {human_pos} rows {elapsed}");
            ProgressBar::no_length().with_style(style.expect("a constant that parses"))
        }
    }
}
