//! What processors are built from: typed and small, each with a state in a store of the service, none with state elsewhere.
//! A processor has those that it needs as fields, and calls them from `Processor::process`; what they tell, it emits.
//!
//! ```
//! use engram_pipeline::driver::Driver;
//! use engram_pipeline::errors::ErrorPolicy;
//! use engram_pipeline::log::{Cleanup, TopicSpec};
//! use engram_pipeline::operators::{EmitStrategy, Keyed, Late, TimeWindows, WindowOptions, WindowedAggregate};
//! use engram_pipeline::processor::{Context, Input, Output, ProcessError, Processor, Service};
//!
//! /// Counts the orders of each customer and minute: one record for each, once the minute is over.
//! struct Orders {
//!     per_minute: WindowedAggregate<String, (), i64>,
//! }
//!
//! const PER_MINUTE: usize = 0; // store
//! const COUNTS: usize = 0; // outputs
//! const LATE: usize = 1;
//!
//! impl Processor for Orders {
//!     fn process(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
//!         let Some(order) = read(input)?.filter(|order| order.value > 0.0) else { return Ok(()) };
//!         for count in self.per_minute.add(context, input, &order.key, order.time_ms, &())? {
//!             let text = format!("{} orders from {}", count.value, count.window.start_ms);
//!             context.emit(COUNTS, count.key.as_bytes(), Some(text.as_bytes()))?;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! /// A customer, when, and how much; what is no number goes to the dead letters.
//! fn read(input: &Input<'_>) -> Result<Keyed<String, f64>, ProcessError> {
//!     let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
//!     let amount = text(input.record.value).parse().map_err(|_| ProcessError::reject("malformed", "no amount"))?;
//!     Ok(Keyed::new(text(input.record.key), input.record.timestamp_ms, amount))
//! }
//!
//! fn service() -> Service {
//!     let topic = |name: &str| TopicSpec {
//!         name: name.to_owned(),
//!         partitions: 0,
//!         cleanup: Cleanup::Keep,
//!         max_message_bytes: 1 << 20,
//!     };
//!     let output = |topic: &str| Output { topic: topic.to_owned(), event: None };
//!     Service {
//!         name: "orders",
//!         inputs: vec!["orders".to_owned()],
//!         outputs: vec![output("orders-per-minute"), output("late-orders")],
//!         topics: ["orders", "orders-per-minute", "late-orders"].map(topic).to_vec(),
//!         stores: vec![WindowedAggregate::<String, (), i64>::spec("per-minute")],
//!         processor: Box::new(|_| {
//!             let windows = TimeWindows::tumbling(60_000).expect("longer than 0 ms");
//!             let options = WindowOptions {
//!                 name: "per-minute",
//!                 grace_ms: 10_000,
//!                 emit: EmitStrategy::OnWindowClose,
//!                 late: Late::Topic(LATE),
//!             };
//!             Ok(Box::new(Orders { per_minute: WindowedAggregate::new(PER_MINUTE, windows, options, |n, ()| *n += 1) }))
//!         }),
//!         errors: ErrorPolicy::default(),
//!     }
//! }
//!
//! # fn main() -> Result<(), ProcessError> {
//! let mut driver = Driver::new(service(), 1)?;
//! driver.pipe("orders", 0, b"ann", b"12.50", 5_000)?;
//! driver.pipe("orders", 0, b"bob", b"3", 61_000)?;
//! driver.pipe("orders", 0, b"ann", b"8", 59_000)?; // within the grace
//! driver.pipe("orders", 0, b"bob", b"4", 70_000)?; // closes the first minute
//! driver.pipe("orders", 0, b"ann", b"1", 58_000)?; // late
//! driver.commit()?;
//! let counts = driver.records("orders-per-minute");
//! assert_eq!(counts.len(), 1);
//! assert_eq!(counts[0].value.as_deref(), Some(b"2 orders from 0".as_slice()));
//! assert_eq!(driver.records("late-orders").len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! Event time is what the caller says it is. An operator moves the task's stream time to it (`Context::stream_time`), and
//! closes by stream time alone: so results follow from the inputs and their order, wherever commits, aborts and restarts
//! fall. Since records are taken in the order of their timestamps, and time is the task's, windows of one task do not wait
//! for other tasks.
//!
//! Side outputs are outputs: a processor emits to any of `Service::outputs` by its index. `docs/operators.md` has the list
//! with the exact meaning of each, and where it differs from Kafka Streams.
//!
//! INVARIANT: an operator holds nothing between two calls that the stores do not have, so an abort needs no word to it.

mod foreign_key;
mod keyed;
mod late;
mod sessions;
mod sliding;
mod stream_join;
mod table_join;
mod ttl;
mod value;
mod versioned;
mod windows;

pub use foreign_key::{ForeignJoined, ForeignKeyJoin, ForeignKeyOptions, topic as foreign_key_topic};
pub use keyed::Keyed;
pub use late::Late;
pub use sessions::{SessionAggregate, SessionFold};
pub use sliding::SlidingAggregate;
pub use stream_join::{JoinKind, Joined, StreamJoin, StreamJoinOptions};
pub use table_join::{Table, TableJoin, TableJoinKind};
pub use ttl::{EXPIRED_MAX, TtlStore};
pub use value::ValueStore;
pub use versioned::{Version, VersionedStore};
pub use windows::{
    CLOSED_MAX, EmitStrategy, OVERLAP_MAX, TimeWindows, Window, WindowOptions, Windowed, WindowedAggregate,
};
