//! A measurement's outcome, for the table and for JSON.

use std::time::Duration;

use engram_pipeline::worker::CommitTimes;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// One line of the outcome; what a measurement does not have is left out.
#[derive(Debug, Clone, Default)]
pub struct Figure {
    name: String,
    per_second: Option<f64>,
    per_cpu_second: Option<f64>,
    /// Share of the rate at which the log alone copies the same records.
    of_copy: Option<f64>,
    mb_per_second: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    peak_mib: Option<f64>,
    /// What the configuration allows.
    bound_mib: Option<f64>,
}

impl Figure {
    /// A rate of which nothing more is known.
    pub fn per_second(name: &str, rate: f64) -> Self {
        Self { name: name.to_owned(), per_second: Some(rate), peak_mib: peak_memory_mib(), ..Self::default() }
    }

    pub fn beside(mut self, copy: &Rate) -> Self {
        self.of_copy = self.per_second.map(|rate| rate / copy.per_second());
        self
    }

    /// With the memory that it may take at most.
    pub fn under(mut self, bound_mib: Option<f64>) -> Self {
        self.bound_mib = bound_mib;
        self
    }

    pub fn json(&self) -> Value {
        let mut value = json!({"name": self.name});
        for (name, number) in self.numbers() {
            if let Some(number) = number {
                value[name] = ((number * 1_000.0).round() / 1_000.0).into();
            }
        }
        value
    }

    pub fn row(&self) -> Vec<String> {
        let shown = |(name, number): (&str, Option<f64>)| match number {
            None => String::new(),
            Some(number) if name == "of_copy" => format!("{:.0} %", number * 100.0),
            Some(number) if name.starts_with('p') && name.ends_with("_ms") => format!("{number:.1}"),
            Some(number) => format!("{number:.0}"),
        };
        std::iter::once(self.name.clone()).chain(self.numbers().into_iter().map(shown)).collect()
    }

    fn numbers(&self) -> [(&'static str, Option<f64>); 8] {
        [
            ("records_per_second", self.per_second),
            ("records_per_cpu_second", self.per_cpu_second),
            ("of_copy", self.of_copy),
            ("mb_per_second", self.mb_per_second),
            ("p50_ms", self.p50_ms),
            ("p99_ms", self.p99_ms),
            ("peak_mib", self.peak_mib),
            ("bound_mib", self.bound_mib),
        ]
    }
}

/// Records and bytes over time and CPU time.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    pub records: u64,
    pub bytes: u64,
    pub elapsed: Duration,
    pub cpu: Duration,
}

impl Rate {
    pub fn per_second(&self) -> f64 {
        self.records as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    pub fn per_cpu_second(&self) -> f64 {
        self.records as f64 / self.cpu.as_secs_f64().max(1e-9)
    }

    pub fn figure(&self, name: &str) -> Figure {
        let megabytes = self.bytes as f64 / 1e6;
        Figure {
            name: name.to_owned(),
            per_second: Some(self.per_second()),
            per_cpu_second: Some(self.per_cpu_second()),
            mb_per_second: (self.bytes > 0).then(|| megabytes / self.elapsed.as_secs_f64().max(1e-9)),
            peak_mib: peak_memory_mib(),
            ..Figure::default()
        }
    }
}

/// Durations, kept in microseconds.
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("bounds and digits are allowed"))
    }
}

impl Latency {
    pub fn record(&mut self, took: Duration) {
        self.0.saturating_record(took.as_micros() as u64);
    }

    pub fn figure(&self, name: &str) -> Figure {
        let at = |quantile| Some(self.0.value_at_quantile(quantile) as f64 / 1_000.0);
        Figure { name: name.to_owned(), p50_ms: at(0.5), p99_ms: at(0.99), ..Figure::default() }
    }
}

/// The parts of commits.
#[derive(Default)]
pub struct Commits {
    prepare: Latency,
    flush: Latency,
    transaction: Latency,
    /// Flush and transaction: what the log takes of the worker's time.
    log: Latency,
}

impl Commits {
    pub fn record(&mut self, times: CommitTimes) {
        self.prepare.record(times.prepare);
        self.flush.record(times.flush);
        self.transaction.record(times.transaction);
        self.log.record(times.flush + times.transaction);
    }

    pub fn figures(&self, of: &str) -> [Figure; 4] {
        [
            self.log.figure(&format!("{of}: commit latency")),
            self.prepare.figure("  before it, last outputs and changelog"),
            self.flush.figure("  of it, until all records are in the log"),
            self.transaction.figure("  of it, manifests and the transaction's end"),
        ]
    }
}

/// CPU time of all threads of this process, the log's client included.
pub fn cpu_time() -> Duration {
    cpu_time_of(libc::RUSAGE_SELF)
}

/// CPU time of the processes that this one has started and that have ended.
pub fn cpu_time_of_children() -> Duration {
    cpu_time_of(libc::RUSAGE_CHILDREN)
}

fn cpu_time_of(who: libc::c_int) -> Duration {
    // SAFETY: getrusage only writes the struct, for which all zeros is a value.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(who, &raw mut usage);
        usage
    };
    let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1_000);
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// The most memory that was resident since the last reset; `None` where the system does not tell.
fn peak_memory_mib() -> Option<f64> {
    memory_mib("VmHWM:")
}

/// The memory that is resident now; `None` where the system does not tell.
pub fn resident_mib() -> Option<f64> {
    memory_mib("VmRSS:")
}

fn memory_mib(field: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}

/// Begins a new peak; where the system does not allow it, the peak is that of the whole run.
pub fn reset_peak_memory() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
