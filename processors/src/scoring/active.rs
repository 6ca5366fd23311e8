//! A model in service: what it wants of events, the batch that is being gathered for it, and the model itself once it is there.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array as _, ArrayRef, AsArray as _, Float32Array, StringArray};
use arrow::datatypes::Float64Type;
use engram_models::ModelFile;
use engram_models::breaker::{self, Breaker, Gravity, Permit};
use engram_models::features::{self, Features, States};
use engram_models::gpu::pinned::{Pool, Unpinned};
use engram_models::guard::{self, Guard};
use engram_models::series::Detector;
use engram_pipeline::processor::ProcessError;
use engram_pipeline::store::{Store, codec};
use engram_schemas::codec::DecodeError;
use engram_schemas::projection::{Field, Kind, Projection};
use engram_schemas::registry::Registry;
use engram_schemas::scoring::{Feature, ModelLoaded};

use super::ScoringConfig;
use super::next::Next;
use super::series::SeriesStates;

/// Memory that is kept from one batch to the next.
const POOL_BYTES_MAX: usize = 32 << 20;

pub struct Active {
    pub spec: ModelLoaded,
    features: Features,
    /// Columns of the features first, then the series and the time where the model tells of them.
    projection: Projection,
    /// What columns are made of, unless a GPU has better.
    pool: Arc<Pool>,
    offsets: Vec<i64>,
    bytes: usize,
    /// When its first row came, by the clock that only measures.
    began: Duration,
    scorer: Option<Scorer>,
    /// Of the series, where a detector scores.
    states: SeriesStates,
    breaker: Breaker,
    /// What is to take its place.
    pub next: Option<Box<Next>>,
}

/// What its file has, ready to score.
pub enum Scorer {
    Model(Box<Guard>),
    Detector(Detector),
}

/// The scores of a batch.
pub struct Scores {
    /// Row by row.
    pub values: Vec<f64>,
    /// Of a row.
    pub width: usize,
    /// The definition that they follow.
    pub kernel: &'static str,
}

/// A batch as it was gathered.
pub struct Batch {
    /// A column for each of the features' inputs.
    pub inputs: Vec<ArrayRef>,
    /// None is null.
    pub series: StringArray,
    /// ms since the epoch; `None` where the event does not tell.
    pub times: Vec<Option<i64>>,
    pub offsets: Vec<i64>,
}

/// Checks a declaration. Errors: one clause.
pub fn check(spec: &ModelLoaded) -> Result<Features, String> {
    let feature = |feature: &Feature| {
        let value = serde_json::to_value(feature).map_err(|error| error.to_string())?;
        serde_json::from_value::<features::Feature>(value).map_err(|error| error.to_string())
    };
    let list = spec.features.iter().map(feature).collect::<Result<Vec<_>, _>>()?;
    Features::new(list).map_err(|error| error.to_string())
}

impl Active {
    pub fn new(spec: ModelLoaded, config: &ScoringConfig, registry: &Arc<dyn Registry>) -> Result<Self, String> {
        let features = check(&spec)?;
        let mut fields: Vec<Field> = features.inputs().iter().map(field).collect();
        // A path that no event has is missing everywhere.
        fields.push(Field { path: spec.series.clone(), kind: Kind::Text });
        fields.push(Field { path: spec.time_field.clone(), kind: Kind::Number });
        let projection = Projection::new(Arc::clone(registry), &spec.event, fields);
        let settings = breaker::Settings { failures_max: 1, open: config.retry };
        Ok(Self {
            spec,
            features,
            projection,
            pool: Pool::new(Box::new(Unpinned), POOL_BYTES_MAX),
            offsets: Vec::new(),
            bytes: 0,
            began: Duration::ZERO,
            scorer: None,
            states: SeriesStates::default(),
            breaker: Breaker::new(settings),
            next: None,
        })
    }

    /// Adds a row, if the event is of the type that it scores. Errors leave the batch as it was.
    pub fn push(&mut self, value: &[u8]) -> Result<bool, DecodeError> {
        self.projection.push(value)
    }

    /// Takes the row back that was just pushed.
    pub fn take_back(&mut self) {
        self.projection.pop();
    }

    /// The row that was just pushed stays.
    pub fn keep(&mut self, offset: i64, bytes: usize, now: Duration) {
        if self.offsets.is_empty() {
            self.began = now;
        }
        self.offsets.push(offset);
        self.bytes += bytes;
    }

    pub fn rows(&self) -> usize {
        self.offsets.len()
    }

    /// The batch has come to one of its bounds.
    pub fn is_due(&self, config: &ScoringConfig, now: Duration) -> bool {
        self.rows() >= config.batch_rows
            || self.bytes >= config.batch_bytes
            || (self.rows() > 0 && now.saturating_sub(self.began) >= config.batch_delay)
    }

    /// Paths of the features' inputs.
    pub fn fields(&self) -> Vec<String> {
        self.features.inputs().iter().map(|input| input.path.clone()).collect()
    }

    /// Ids of the schemas that its events were written with.
    pub fn ids_seen(&self) -> Vec<u32> {
        self.projection.ids_seen()
    }

    /// Takes the batch; another begins.
    pub fn take(&mut self) -> Batch {
        let rows = self.projection.finish();
        self.bytes = 0;
        let inputs = self.features.inputs().len();
        let times = rows.column(inputs + 1).as_primitive::<Float64Type>();
        Batch {
            inputs: rows.columns()[..inputs].to_vec(),
            series: named(rows.column(inputs).as_string::<i32>()),
            // Times are whole numbers, which an f64 holds far beyond any date.
            times: times.values().iter().map(|time| time.is_finite().then_some(*time as i64)).collect(),
            offsets: std::mem::take(&mut self.offsets),
        }
    }

    pub fn is_loaded(&self) -> bool {
        self.scorer.is_some()
    }

    /// Whether it may be asked for: not again a short while after that was in vain.
    pub fn may_load(&mut self, config: &ScoringConfig) -> bool {
        !matches!(self.breaker.permit(config.clock.now()), Permit::Refuse)
    }

    /// What came of asking for it; `otherwise` says what is done without it.
    pub fn loaded(&mut self, outcome: Result<Scorer, String>, otherwise: &str, config: &ScoringConfig) {
        match outcome {
            Ok(scorer) => {
                self.breaker.succeeded();
                self.scorer = Some(scorer);
            }
            Err(reason) => {
                self.breaker.failed(Gravity::Grave, config.clock.now());
                let (model, hash) = (&self.spec.name, &self.spec.hash);
                tracing::warn!(model, hash, reason, "a model cannot be had: {otherwise}");
            }
        }
    }

    /// Whether the model is there; if it is not, asks for it, and waits.
    pub fn is_ready(&mut self, config: &ScoringConfig) -> bool {
        if !self.is_loaded() && self.may_load(config) {
            self.loaded(Scorer::load(&self.spec, config), "robust z-scores stand in for it", config);
        }
        self.is_loaded()
    }

    /// Makes the model ready. Errors: one clause that says why it cannot be had.
    pub fn load(&mut self, config: &ScoringConfig) -> Result<(), String> {
        if self.scorer.is_none() {
            self.scorer = Some(Scorer::load(&self.spec, config)?);
        }
        Ok(())
    }

    /// The columns of a batch; what later rows need of these stays in the store.
    pub fn columns(&self, batch: &Batch, histories: &mut Store) -> Result<Vec<Float32Array>, ProcessError> {
        let times: Vec<i64> = batch.times.iter().map(|time| time.unwrap_or(0)).collect();
        let mut states = Histories { store: histories, model: &self.spec.name };
        let pinned = match &self.scorer {
            Some(Scorer::Model(guard)) => guard.pinned(),
            _ => None,
        };
        self.features.compute(&batch.inputs, &batch.series, &times, &mut states, pinned.unwrap_or(&self.pool))
    }

    /// The scores of a batch. A detector's states are in the store.
    pub fn scores(
        &mut self,
        columns: &[Float32Array],
        batch: &Batch,
        detectors: &mut Store,
    ) -> Result<Scores, ProcessError> {
        match self.scorer.as_mut().expect("it was asked whether it is there") {
            Scorer::Model(guard) => {
                let scored = guard.score(columns).map_err(|error| ProcessError::Refused(error.to_string()))?;
                let model = guard.model();
                let values = model.scores(&scored.margins);
                Ok(Scores { values, width: model.scores_width(), kernel: model.kernel() })
            }
            Scorer::Detector(detector) => {
                let mut values = Vec::with_capacity(columns.len() * batch.offsets.len());
                for row in 0..batch.offsets.len() {
                    for (number, column) in (0_u32..).zip(columns) {
                        let of = (self.spec.name.clone(), batch.series.value(row).to_owned(), number);
                        let state = self.states.get(&codec::to_bytes(&of), detector, detectors)?;
                        values.push(detector.score(state, batch.times[row].unwrap_or(0), column.value(row)));
                    }
                }
                self.states.write(detector, detectors)?;
                Ok(Scores { values, width: columns.len(), kernel: detector.kernel() })
            }
        }
    }
}

impl Scorer {
    /// Errors: one clause that says why it cannot be had.
    pub fn load(spec: &ModelLoaded, config: &ScoringConfig) -> Result<Self, String> {
        let file = config.files.file(&spec.hash)?;
        file.check_columns(spec.features.len())?;
        Ok(match &*file {
            ModelFile::Model(model) => {
                let (gpu, clock) = ((config.gpu)(), Arc::clone(&config.clock));
                let guard = Guard::new(model.clone(), &*config.cpu, gpu, clock, guard::Settings::default());
                Self::Model(Box::new(guard.map_err(|error| error.to_string())?))
            }
            ModelFile::Detector { detector, .. } => Self::Detector(detector.clone()),
        })
    }
}

fn field(input: &features::Input) -> Field {
    let kind = match input.kind {
        features::InputKind::Number => Kind::Number,
        features::InputKind::Text => Kind::Text,
    };
    Field { path: input.path.clone(), kind }
}

/// Events that do not tell are of the series without a name.
fn named(series: &StringArray) -> StringArray {
    if series.null_count() == 0 {
        return series.clone();
    }
    StringArray::from_iter_values(series.iter().map(Option::unwrap_or_default))
}

/// The histories of one model's series.
struct Histories<'a> {
    store: &'a mut Store,
    model: &'a str,
}

impl Histories<'_> {
    fn key(&self, series: &str) -> Vec<u8> {
        codec::to_bytes(&(self.model.to_owned(), series.to_owned()))
    }
}

impl States for Histories<'_> {
    type Error = ProcessError;

    fn get(&mut self, series: &str) -> Result<Option<Vec<u8>>, ProcessError> {
        let key = self.key(series);
        Ok(self.store.get(&key)?.map(<[u8]>::to_vec))
    }

    fn put(&mut self, series: &str, state: &[u8]) -> Result<(), ProcessError> {
        let key = self.key(series);
        Ok(self.store.put(&key, state)?)
    }
}
