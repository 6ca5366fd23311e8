//! `engram bench scale`: the same events over more and more partitions, with a worker for each as far as there are cores,
//! beside what the log alone does with as many.

use std::path::Path;

use engram_pipeline::worker::Guarantee;

use super::Bed;
use super::figures::Figure;
use super::load::{self, Load};
use super::services::{Kind, Runtime};

pub fn measure(bed: &Bed, load: &Load, counts: &[i32], folder: &Path) -> anyhow::Result<Vec<Figure>> {
    let cores = std::thread::available_parallelism()?.get();
    let mut figures = Vec::new();
    for &partitions in counts {
        let bed = bed.with_partitions(partitions);
        let workers = cores.min(partitions.unsigned_abs() as usize);
        let of = format!("{partitions} partitions");
        let input = bed.create("input")?;
        load::produce(&bed, &input, load)?;
        let copy = load::copy(&bed, &input, &bed.create("copy")?)?;
        figures.push(copy.figure(&format!("{of}: copy, the log alone, one thread")));
        for (kind, name) in [(Kind::PassThrough, "pass-through"), (Kind::Counting, "windowed counting")] {
            let runtime = Runtime {
                bed: &bed,
                input: &input,
                records: load.records,
                folder,
                kind,
                guarantee: Guarantee::ExactlyOnce,
                workers,
            };
            crate::output::say(format_args!("engram: {of}: {name}"));
            let measured = runtime.run(name.split(' ').next_back().unwrap_or(name))?;
            figures.push(measured.rate.figure(&format!("{of}: {name}, {workers} workers")).beside(&copy));
        }
    }
    Ok(figures)
}
