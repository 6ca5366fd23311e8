//! The scoring processor: takes commands, gathers batches, ends them, and emits a score for each row.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engram_models::series::Detector;
use engram_pipeline::log::TopicPartition;
use engram_pipeline::processor::{Context, Input, ProcessError, Processor, TaskSetup};
use engram_pipeline::store::Order;
use engram_pipeline::store::codec::{self, Json};
use engram_schemas::Event as _;
use engram_schemas::codec::{Decoder, Encoder};
use engram_schemas::registry::Registry;
use engram_schemas::scoring::{ModelLoaded, ModelUnloaded, Score};
use serde::{Deserialize, Serialize};

use super::active::{Active, Batch, Scores};
use super::next::Next;
use super::{SCORES, ScoringConfig, at, fallback};

/// As the store has it, by the model's name.
#[derive(Debug, Serialize, Deserialize)]
pub struct InService {
    #[serde(flatten)]
    spec: ModelLoaded,
    /// What is to take its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<ModelLoaded>,
}

pub struct ScoringProcessor {
    config: ScoringConfig,
    registry: Arc<dyn Registry>,
    decoder: Decoder,
    encoder: Encoder<Score>,
    partition: i32,
    /// By name. `None`: not read from the store yet.
    models: Option<BTreeMap<String, Active>>,
    /// Something of the commit that lasts was seen.
    has_begun: bool,
    fallback: Detector,
    buffer: Vec<u8>,
}

impl ScoringProcessor {
    pub fn new(config: ScoringConfig, setup: &TaskSetup) -> Result<Self, ProcessError> {
        let encoder = Encoder::register(&*setup.registry, SCORES);
        Ok(Self {
            config,
            registry: Arc::clone(&setup.registry),
            decoder: Decoder::new(Arc::clone(&setup.registry)),
            encoder: encoder.map_err(|error| ProcessError::Retry(error.to_string()))?,
            partition: setup.partition,
            models: None,
            has_begun: false,
            fallback: Detector::fallback(),
            buffer: Vec::new(),
        })
    }

    /// Begins a commit, if that was not done: models that are ready take the places that they are for, before anything is
    /// scored. The manifest has that before all batches; where the commit is made again, it is done as it says.
    fn begin(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        if std::mem::replace(&mut self.has_begun, true) {
            return Ok(());
        }
        let is_first = self.models.is_none();
        if is_first {
            self.models = Some(self.read(context)?);
        }
        if context.is_made_again() {
            while let Some((name, 0)) = context.recorded_batch() {
                let name = name.to_owned();
                if !self.take_place(&name, context)? {
                    break;
                }
            }
            return Ok(());
        }
        let config = &self.config;
        let ready = self.models.iter_mut().flatten().filter_map(|(name, active)| {
            let next = active.next.as_mut()?;
            // At the start there is nothing yet that waiting for it could hold up.
            let is_ready = if is_first { next.active.is_ready(config) } else { next.is_ready(config) };
            is_ready.then(|| name.clone())
        });
        let ready: Vec<String> = ready.collect();
        ready.iter().try_for_each(|name| self.take_place(name, context).map(drop))
    }

    /// The models that were in service at the last commit.
    fn read(&self, context: &mut Context<'_>) -> Result<BTreeMap<String, Active>, ProcessError> {
        let mut known = Vec::new();
        context.store(at::MODELS_STORE).range(&[], &codec::end_of(&[]), Order::Ascending, |_, value| {
            known.extend(codec::read_whole::<Json<InService>>(value).map(|Json(known)| known));
            true
        })?;
        let active = |spec: ModelLoaded| {
            let name = spec.name.clone();
            // It was checked when it came; another program may see it otherwise.
            Active::new(spec, &self.config, &self.registry).map_err(|reason| {
                ProcessError::Refused(format!("model {name} is in service, and cannot be used: {reason}"))
            })
        };
        let mut models = BTreeMap::new();
        for InService { spec, next } in known {
            let mut model = active(spec)?;
            model.next = next.map(active).transpose()?.map(Next::new).map(Box::new);
            models.insert(model.spec.name.clone(), model);
        }
        Ok(models)
    }

    fn models(&mut self) -> &mut BTreeMap<String, Active> {
        self.models.as_mut().expect("they are read before anything is done")
    }

    fn command(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let value = input.record.value.ok_or_else(|| ProcessError::reject("null-value", "a command cannot be null"))?;
        let kind = self.decoder.type_name(value)?.map(str::to_owned);
        if kind.as_deref() == Some(ModelUnloaded::NAME) {
            let command: ModelUnloaded = self.decoder.decode(value)?;
            self.end_all(context)?;
            return self.unload(&command.name, context);
        }
        let spec: ModelLoaded = self.decoder.decode(value)?;
        if !self.config.topics.contains(&spec.topic) {
            let detail = format!("the service does not read {}: name it in scoring.topics", spec.topic);
            return Err(ProcessError::reject("unknown-topic", detail));
        }
        let mut active = Active::new(spec, &self.config, &self.registry)
            .map_err(|reason| ProcessError::reject("invalid-features", reason))?;
        // What came before is scored by the model that was there.
        self.end_all(context)?;
        let (name, spec) = (active.spec.name.clone(), active.spec.clone());
        let config = &self.config;
        let models = self.models.as_mut().expect("they are read before anything is done");
        let known = match models.get_mut(&name) {
            Some(before) => {
                let next = before.next.insert(Box::new(Next::new(active)));
                if !context.is_made_again() {
                    next.is_ready(config);
                }
                InService { spec: before.spec.clone(), next: Some(spec) }
            }
            None => {
                active.is_ready(config);
                models.insert(name, active);
                InService { spec, next: None }
            }
        };
        keep(known, context)
    }

    /// Puts what was to take a model's place there, if there is anything. The manifest has it as a batch without rows.
    fn take_place(&mut self, name: &str, context: &mut Context<'_>) -> Result<bool, ProcessError> {
        let Some(next) = self.models().get_mut(name).and_then(|active| active.next.take()) else { return Ok(false) };
        let active = next.active;
        context.end_batch(name, &active.spec.hash, 0, || false);
        keep(InService { spec: active.spec.clone(), next: None }, context)?;
        self.models().insert(name.to_owned(), active);
        Ok(true)
    }

    /// Takes a model out of service, with all that is kept for it.
    fn unload(&mut self, name: &str, context: &mut Context<'_>) -> Result<(), ProcessError> {
        self.models().remove(name);
        let prefix = codec::to_bytes(&name.to_owned());
        for store in [at::MODELS_STORE, at::HISTORIES_STORE, at::FALLBACK_STORE, at::DETECTORS_STORE] {
            let (store, mut keys) = (context.store(store), Vec::new());
            store.range(&prefix, &codec::end_of(&prefix), Order::Ascending, |key, _| {
                keys.push(key.to_vec());
                true
            })?;
            keys.iter().try_for_each(|key| store.delete(key))?;
        }
        Ok(())
    }

    fn event(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        // Tombstones of compacted topics.
        let Some(value) = input.record.value else { return Ok(()) };
        let (topic, offset) = (&*input.partition.topic, input.record.offset);
        let models = self.models.as_mut().expect("they are read before anything is done");
        let mut pushed: Vec<&mut Active> = Vec::new();
        for active in models.values_mut().filter(|active| active.spec.topic == topic) {
            match active.push(value) {
                Ok(true) => pushed.push(active),
                Ok(false) => {}
                Err(error) => {
                    pushed.into_iter().for_each(Active::take_back);
                    return Err(error.into());
                }
            }
        }
        if pushed.is_empty() {
            return Ok(());
        }
        // SUBTLE: this clock only says when a batch ends, which the manifest tells a replay.
        let now = self.config.clock.now();
        pushed.into_iter().for_each(|active| active.keep(offset, value.len(), now));
        context.contributes(|| place(topic, offset));
        self.end_due(now, context)
    }

    /// Ends the batches that end here: by the record of the commit, where there is one, else by their bounds.
    fn end_due(&mut self, now: Duration, context: &mut Context<'_>) -> Result<(), ProcessError> {
        while let Some((model, rows)) = context.recorded_batch() {
            let model = model.to_owned();
            if rows == 0 || self.models().get(&model).is_none_or(|active| active.rows() as i64 != rows) {
                return Ok(());
            }
            self.end(&model, context)?;
        }
        let config = &self.config;
        let models = self.models.iter().flatten();
        let due: Vec<String> =
            models.filter(|(_, active)| active.is_due(config, now)).map(|(name, _)| name.clone()).collect();
        due.iter().try_for_each(|name| self.end(name, context))
    }

    fn end_all(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let names: Vec<String> = self.models().keys().cloned().collect();
        names.iter().try_for_each(|name| self.end(name, context))
    }

    /// Scores a model's batch.
    fn end(&mut self, name: &str, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let config = &self.config;
        let models = self.models.as_mut().expect("they are read before anything is done");
        let Some(active) = models.get_mut(name).filter(|active| active.rows() > 0) else { return Ok(()) };
        let (rows, hash) = (active.rows() as i64, active.spec.hash.clone());
        let is_fallback = context.end_batch(name, &hash, rows, || !active.is_ready(config));
        if !is_fallback {
            // A replay is told that it was there, and has to have it, too.
            active.load(config).map_err(|reason| {
                ProcessError::Retry(format!("model {name}, which scored these events, cannot be had: {reason}"))
            })?;
        }
        let batch = active.take();
        let columns = active.columns(&batch, context.store(at::HISTORIES_STORE))?;
        let scores = if is_fallback {
            fallback::scores(&self.fallback, name, &active.fields(), &batch, context.store(at::FALLBACK_STORE))?
        } else {
            active.scores(&columns, &batch, context.store(at::DETECTORS_STORE))?
        };
        let counter = if is_fallback { "engram_fallback_scores_total" } else { "engram_scores_total" };
        metrics::counter!(counter, "model" => name.to_owned()).increment(rows.cast_unsigned());
        let score = Score {
            series: String::new(),
            time: None,
            topic: active.spec.topic.clone(),
            partition: self.partition,
            offset: 0,
            model: name.to_owned(),
            hash,
            kernel: scores.kernel.to_owned(),
            is_fallback,
            scores: Vec::with_capacity(scores.width),
        };
        let is_place_taken = match &mut active.next {
            _ if context.is_made_again() => context.recorded_batch() == Some((name, 0)),
            Some(next) => next.is_ready(config),
            None => false,
        };
        self.emit(score, &batch, &scores, context)?;
        if is_place_taken {
            self.take_place(name, context)?;
        }
        Ok(())
    }

    /// Emits a score for each row, with the row as its cause.
    fn emit(
        &mut self,
        mut score: Score,
        batch: &Batch,
        scores: &Scores,
        context: &mut Context<'_>,
    ) -> Result<(), ProcessError> {
        let of = TopicPartition::new(score.topic.as_str(), self.partition);
        for (row, values) in scores.values.chunks(scores.width.max(1)).enumerate() {
            score.series.clear();
            score.series.push_str(batch.series.value(row));
            (score.time, score.offset) = (batch.times[row], batch.offsets[row]);
            score.scores.clear();
            score.scores.extend(values.iter().map(|value| value.is_finite().then_some(*value)));
            let encoded = self.encoder.encode(&score, &mut self.buffer);
            encoded.map_err(|error| ProcessError::Refused(format!("a score cannot be written: {error}")))?;
            context.caused_by(&of, score.offset);
            context.made_of(|| place(&score.topic, score.offset));
            context.emit(at::OUT_SCORES, score.series.as_bytes(), Some(&self.buffer))?;
        }
        context.made_of_itself();
        Ok(())
    }
}

/// Puts a model into the store, as it is in service now.
fn keep(known: InService, context: &mut Context<'_>) -> Result<(), ProcessError> {
    let key = codec::to_bytes(&known.spec.name);
    Ok(context.store(at::MODELS_STORE).put(&key, &codec::to_bytes(&Json(known)))?)
}

/// Names a row, for a replay that traces what a score is made of.
fn place(topic: &str, offset: i64) -> Vec<u8> {
    [topic.as_bytes(), &offset.to_be_bytes()].concat()
}

impl Processor for ScoringProcessor {
    fn process(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        self.begin(context)?;
        match input.source {
            at::COMMANDS => self.command(input, context),
            _ => self.event(input, context),
        }
    }

    fn before_commit(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        self.begin(context)?;
        self.has_begun = false;
        self.end_all(context)
    }

    fn schema_ids(&self) -> Vec<u32> {
        let models = self.models.iter().flatten();
        let mut ids: Vec<u32> = models.flat_map(|(_, active)| active.ids_seen()).collect();
        ids.extend(self.decoder.ids_seen());
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn reset(&mut self) {
        self.models = None;
        self.has_begun = false;
    }
}
