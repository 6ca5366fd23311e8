//! The calls into librdkafka that the safe crate has not got, or has only slower: batches from split partition queues,
//! transactions without the crate's 100 ms polls, `produceva`. All of the project's FFI stands in this file.
//!
//! Measured (rdkafka 0.39, ns a record on the calling thread): `BaseConsumer::poll` 217-267, batches 47-103;
//! `ThreadedProducer::send` 312-408, `produceva` about 130.
//!
//! INVARIANT: whatever librdkafka hands out (queues, messages, topic handles) is destroyed before its client: each
//! wrapper either keeps its client alive or is dropped by the owner first.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::config::NativeClientConfig;
use rdkafka::types::RDKafkaRespErr as Code;

use crate::log::record::{NewRecord, RecordRef};

/// Lets a thread wait until one of several queues has got something.
#[derive(Default)]
pub struct Wake {
    ready: Mutex<bool>,
    changed: Condvar,
}

impl Wake {
    pub fn wait(&self, timeout: Duration) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if !*ready {
            ready = self.changed.wait_timeout(ready, timeout).unwrap_or_else(PoisonError::into_inner).0;
        }
        *ready = false;
    }

    fn notify(&self) {
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }
}

unsafe extern "C" fn on_queue_event(_client: *mut rd::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: `opaque` is the `Wake` that `PartitionQueue::split` registered; the queue keeps it alive until it has
    // switched the callback off.
    unsafe { &*opaque.cast::<Wake>() }.notify();
}

/// One partition's own queue, apart from the consumer's main queue.
pub struct PartitionQueue {
    queue: *mut rd::rd_kafka_queue_t,
    _wake: Arc<Wake>,
}

// SAFETY: librdkafka's queues may be used from any thread; this one has a single owner.
unsafe impl Send for PartitionQueue {}

impl PartitionQueue {
    /// Splits a partition's queue from the main queue.
    ///
    /// SUBTLE: to be called before `assign`. Forwarding that the application has set is left alone by the assignment
    /// (`RD_KAFKA_Q_F_FWD_APP`); set afterwards, the first batch may already lie in the main queue.
    ///
    /// # Safety
    /// `client` is a live consumer, which outlives the returned queue.
    pub unsafe fn split(client: *mut rd::rd_kafka_t, topic: &CStr, partition: i32, wake: &Arc<Wake>) -> Option<Self> {
        // SAFETY: the client is live; the queue is checked before its use; `wake` is kept alive by the value returned.
        unsafe {
            let queue = rd::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition);
            if queue.is_null() {
                return None;
            }
            rd::rd_kafka_queue_forward(queue, ptr::null_mut());
            rd::rd_kafka_queue_cb_event_enable(queue, Some(on_queue_event), Arc::as_ptr(wake) as *mut c_void);
            Some(Self { queue, _wake: Arc::clone(wake) })
        }
    }

    /// Takes at most `records_max` messages without waiting.
    pub fn take(&self, records_max: usize) -> Vec<Message> {
        let mut messages: Vec<*mut rd::rd_kafka_message_t> = Vec::with_capacity(records_max);
        // SAFETY: the vector has room for `records_max` pointers, and librdkafka tells how many it has filled in.
        unsafe {
            let taken = rd::rd_kafka_consume_batch_queue(self.queue, 0, messages.as_mut_ptr(), records_max);
            messages.set_len(usize::try_from(taken).unwrap_or(0));
        }
        // In place: `Message` is a transparent wrapper, so this reuses the allocation.
        messages.into_iter().map(Message).collect()
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: the queue is ours; the callback is off before `_wake` goes.
        unsafe {
            rd::rd_kafka_queue_cb_event_enable(self.queue, None, ptr::null_mut());
            rd::rd_kafka_queue_destroy(self.queue);
        }
    }
}

/// A message, or an error in a message's place.
#[repr(transparent)]
pub struct Message(*mut rd::rd_kafka_message_t);

// SAFETY: a message has one owner and is not changed after its delivery.
unsafe impl Send for Message {}

impl Message {
    /// `Ok`, or what stands in the message's place.
    pub fn error(&self) -> Result<(), Code> {
        // SAFETY: the pointer is valid until drop.
        match unsafe { (*self.0).err } {
            Code::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            error => Err(error),
        }
    }

    pub fn offset(&self) -> i64 {
        // SAFETY: as above.
        unsafe { (*self.0).offset }
    }

    /// Of key and value.
    pub fn bytes(&self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.0).key_len + (*self.0).len }
    }

    pub fn record(&self) -> RecordRef<'_> {
        // SAFETY: key and payload live as long as the message; null pointers are null keys and values.
        unsafe {
            let message = &*self.0;
            let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
            RecordRef {
                offset: message.offset,
                timestamp_ms: rd::rd_kafka_message_timestamp(self.0, &mut kind),
                key: bytes(message.key, message.key_len),
                value: bytes(message.payload, message.len),
            }
        }
    }

    pub fn visit_headers(&self, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        // SAFETY: names and values belong to the message, which outlives this function.
        unsafe {
            let mut headers = ptr::null_mut();
            if rd::rd_kafka_message_headers(self.0, &mut headers) != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
                return;
            }
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            let mut index = 0;
            while rd::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut size)
                == Code::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                visit(&CStr::from_ptr(name).to_string_lossy(), bytes(value, size));
                index += 1;
            }
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: owned, destroyed once.
        unsafe { rd::rd_kafka_message_destroy(self.0) }
    }
}

/// # Safety
/// `start` is null or points to `len` bytes that live for `'a`.
unsafe fn bytes<'a>(start: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: by the caller.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast(), len) })
}

/// What became of the records that were written to one partition.
#[derive(Default)]
pub struct Delivery {
    /// The offset after the last tracked record delivered.
    pub end: AtomicI64,
    /// Records that were given up.
    pub failed: AtomicU64,
}

/// A message's opaque value is its partition's `Delivery`, with this bit set if it is tracked.
const TRACKED: usize = 1;

unsafe extern "C" fn on_delivery(
    _client: *mut rd::rd_kafka_t,
    message: *const rd::rd_kafka_message_t,
    _opaque: *mut c_void,
) {
    // SAFETY: `_private` is what `NativeProducer::write` gave: a `Delivery` that lives as long as the producer, its
    // lowest bit (free by alignment) the mark. librdkafka calls this only from `poll` and `flush` of that producer.
    unsafe {
        let message = &*message;
        let opaque = message._private as usize;
        let delivery = &*((opaque & !TRACKED) as *const Delivery);
        if message.err != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
            delivery.failed.fetch_add(1, Ordering::Relaxed);
        } else if opaque & TRACKED != 0 {
            delivery.end.store(message.offset + 1, Ordering::Relaxed);
        }
    }
}

unsafe extern "C" fn on_log(
    _client: *const rd::rd_kafka_t,
    level: c_int,
    _facility: *const c_char,
    line: *const c_char,
) {
    // SAFETY: librdkafka passes a valid C string.
    let line = unsafe { CStr::from_ptr(line) }.to_string_lossy();
    if level <= 3 {
        tracing::warn!(target: "librdkafka", "{line}");
    } else {
        tracing::debug!(target: "librdkafka", "{line}");
    }
}

/// An error of librdkafka, with what it says about the transaction.
#[derive(Debug)]
pub struct NativeError {
    pub code: Code,
    pub reason: String,
    pub fatal: bool,
    pub retriable: bool,
    pub requires_abort: bool,
}

/// # Safety
/// `error` is null or an error that the caller owns.
unsafe fn check(error: *mut rd::rd_kafka_error_t) -> Result<(), NativeError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: not null, owned, destroyed here.
    unsafe {
        let found = NativeError {
            code: rd::rd_kafka_error_code(error),
            reason: CStr::from_ptr(rd::rd_kafka_error_string(error)).to_string_lossy().into_owned(),
            fatal: rd::rd_kafka_error_is_fatal(error) != 0,
            retriable: rd::rd_kafka_error_is_retriable(error) != 0,
            requires_abort: rd::rd_kafka_error_txn_requires_abort(error) != 0,
        };
        rd::rd_kafka_error_destroy(error);
        Err(found)
    }
}

/// A producer, without the crate's per-message costs.
pub struct NativeProducer {
    client: *mut rd::rd_kafka_t,
}

// SAFETY: librdkafka clients may be used from any thread.
unsafe impl Send for NativeProducer {}

/// A topic's handle; kept by the owner of the producer and given back with `forget_topic`.
#[derive(Clone, Copy)]
pub struct TopicHandle(*mut rd::rd_kafka_topic_t);

// SAFETY: as for the client.
unsafe impl Send for TopicHandle {}

impl NativeProducer {
    pub fn new(config: NativeClientConfig) -> Result<Self, String> {
        let mut reason = [0 as c_char; 512];
        // SAFETY: `rd_kafka_new` takes the configuration over only when it succeeds, hence the `forget` there.
        unsafe {
            rd::rd_kafka_conf_set_dr_msg_cb(config.ptr(), Some(on_delivery));
            rd::rd_kafka_conf_set_log_cb(config.ptr(), Some(on_log));
            let client = rd::rd_kafka_new(
                rd::rd_kafka_type_t::RD_KAFKA_PRODUCER,
                config.ptr(),
                reason.as_mut_ptr(),
                reason.len(),
            );
            if client.is_null() {
                return Err(CStr::from_ptr(reason.as_ptr()).to_string_lossy().into_owned());
            }
            std::mem::forget(config);
            Ok(Self { client })
        }
    }

    pub fn topic(&self, name: &CStr) -> TopicHandle {
        // SAFETY: a null configuration is the client's default; the handle is freed by `forget_topic`.
        TopicHandle(unsafe { rd::rd_kafka_topic_new(self.client, name.as_ptr(), ptr::null_mut()) })
    }

    /// How many partitions a topic has, as the brokers say; `Err` with their reason.
    pub fn partitions(&self, topic: TopicHandle, timeout_ms: i32) -> Result<i32, Code> {
        let mut metadata = ptr::null();
        // SAFETY: librdkafka fills in a structure that is ours to destroy if it succeeds; it holds the one topic asked for.
        unsafe {
            match rd::rd_kafka_metadata(self.client, 0, topic.0, &mut metadata, timeout_ms) {
                Code::RD_KAFKA_RESP_ERR_NO_ERROR => {}
                error => return Err(error),
            }
            let found = ((*metadata).topic_cnt == 1).then(|| {
                let topic = &*(*metadata).topics;
                (topic.err, topic.partition_cnt)
            });
            rd::rd_kafka_metadata_destroy(metadata);
            match found {
                Some((Code::RD_KAFKA_RESP_ERR_NO_ERROR, count)) => Ok(count),
                Some((error, _)) => Err(error),
                None => Err(Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART),
            }
        }
    }

    pub fn forget_topic(&self, topic: TopicHandle) {
        // SAFETY: made by `topic`, forgotten once, before the client.
        unsafe { rd::rd_kafka_topic_destroy(topic.0) }
    }

    /// Copies a record into the producer's queue.
    ///
    /// # Safety
    /// `delivery` outlives this producer's last `poll` or `flush`.
    pub unsafe fn write(
        &self,
        topic: TopicHandle,
        record: &NewRecord<'_>,
        delivery: *const Delivery,
        tracked: bool,
    ) -> Result<(), NativeError> {
        use rd::rd_kafka_vtype_t as kind;
        let opaque = delivery as usize | if tracked { TRACKED } else { 0 };
        let mut values = [value(kind::RD_KAFKA_VTYPE_END); 8];
        let mut used = 0;
        let mut push = |filled: rd::rd_kafka_vu_t| {
            values[used] = filled;
            used += 1;
        };
        // SAFETY: all pointers are valid during the call; F_COPY makes librdkafka copy the payload, and it copies keys
        // and headers anyway. Headers are owned by librdkafka once the call has succeeded, and are freed here otherwise.
        unsafe {
            push(field(kind::RD_KAFKA_VTYPE_RKT, |u| u.rkt = topic.0));
            push(field(kind::RD_KAFKA_VTYPE_PARTITION, |u| u.i32_ = record.partition));
            push(field(kind::RD_KAFKA_VTYPE_MSGFLAGS, |u| u.i = rd::RD_KAFKA_MSG_F_COPY as c_int));
            push(field(kind::RD_KAFKA_VTYPE_VALUE, |u| u.mem = memory(record.value)));
            push(field(kind::RD_KAFKA_VTYPE_KEY, |u| u.mem = memory(record.key)));
            push(field(kind::RD_KAFKA_VTYPE_OPAQUE, |u| u.ptr = opaque as *mut c_void));
            if let Some(timestamp_ms) = record.timestamp_ms {
                push(field(kind::RD_KAFKA_VTYPE_TIMESTAMP, |u| u.i64_ = timestamp_ms));
            }
            let headers = native_headers(record.headers);
            if !headers.is_null() {
                push(field(kind::RD_KAFKA_VTYPE_HEADERS, |u| u.headers = headers));
            }
            let outcome = check(rd::rd_kafka_produceva(self.client, values.as_ptr(), used));
            if outcome.is_err() && !headers.is_null() {
                rd::rd_kafka_headers_destroy(headers);
            }
            outcome
        }
    }

    /// Serves delivery reports, waiting for one at most `timeout_ms`.
    pub fn poll(&self, timeout_ms: i32) {
        // SAFETY: the client is live.
        unsafe { rd::rd_kafka_poll(self.client, timeout_ms) };
    }

    /// Waits until every record was delivered or given up, serving the reports.
    pub fn flush(&self, timeout_ms: i32) -> Result<(), Code> {
        // SAFETY: the client is live.
        match unsafe { rd::rd_kafka_flush(self.client, timeout_ms) } {
            Code::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            error => Err(error),
        }
    }

    /// Drops the records that are still queued or in flight.
    pub fn purge(&self) {
        // SAFETY: the client is live.
        unsafe {
            rd::rd_kafka_purge(self.client, (rd::RD_KAFKA_PURGE_F_QUEUE | rd::RD_KAFKA_PURGE_F_INFLIGHT) as c_int)
        };
    }

    pub fn init_transactions(&self, timeout_ms: i32) -> Result<(), NativeError> {
        // SAFETY: the client is live.
        unsafe { check(rd::rd_kafka_init_transactions(self.client, timeout_ms)) }
    }

    pub fn begin_transaction(&self) -> Result<(), NativeError> {
        // SAFETY: the client is live.
        unsafe { check(rd::rd_kafka_begin_transaction(self.client)) }
    }

    /// # Safety
    /// `consumer` is a live consumer; `offsets` a valid list.
    pub unsafe fn send_offsets(
        &self,
        offsets: *const rd::rd_kafka_topic_partition_list_t,
        consumer: *mut rd::rd_kafka_t,
        timeout_ms: i32,
    ) -> Result<(), NativeError> {
        // SAFETY: by the caller; the group metadata is ours and destroyed here.
        unsafe {
            let group = rd::rd_kafka_consumer_group_metadata(consumer);
            let outcome = check(rd::rd_kafka_send_offsets_to_transaction(self.client, offsets, group, timeout_ms));
            rd::rd_kafka_consumer_group_metadata_destroy(group);
            outcome
        }
    }

    /// SUBTLE: -1 waits as long as the transaction may last; a retriable error means that the call may be repeated.
    pub fn commit_transaction(&self) -> Result<(), NativeError> {
        // SAFETY: the client is live.
        unsafe { check(rd::rd_kafka_commit_transaction(self.client, -1)) }
    }

    pub fn abort_transaction(&self) -> Result<(), NativeError> {
        // SAFETY: the client is live.
        unsafe { check(rd::rd_kafka_abort_transaction(self.client, -1)) }
    }
}

impl Drop for NativeProducer {
    fn drop(&mut self) {
        // SAFETY: ours; topic handles have been given back by the owner. NO_CONSUMER_CLOSE has no meaning here; the
        // plain call waits for the client's threads.
        unsafe { rd::rd_kafka_destroy(self.client) }
    }
}

fn value(kind: rd::rd_kafka_vtype_t) -> rd::rd_kafka_vu_t {
    rd::rd_kafka_vu_t { vtype: kind, u: rd::rd_kafka_vu_s__bindgen_ty_1 { ptr: ptr::null_mut() } }
}

fn field(kind: rd::rd_kafka_vtype_t, fill: impl FnOnce(&mut rd::rd_kafka_vu_s__bindgen_ty_1)) -> rd::rd_kafka_vu_t {
    let mut filled = value(kind);
    fill(&mut filled.u);
    filled
}

/// An empty slice's pointer is not null, so an empty value does not become a tombstone.
fn memory(bytes: Option<&[u8]>) -> rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
    let (ptr, size) = bytes.map_or((ptr::null(), 0), |bytes| (bytes.as_ptr(), bytes.len()));
    rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 { ptr: ptr as *mut c_void, size }
}

/// # Safety
/// The result, if not null, is to be handed to librdkafka or destroyed.
unsafe fn native_headers(headers: &[(&str, Option<&[u8]>)]) -> *mut rd::rd_kafka_headers_t {
    if headers.is_empty() {
        return ptr::null_mut();
    }
    // SAFETY: names and values are copied by librdkafka, with their lengths.
    unsafe {
        let native = rd::rd_kafka_headers_new(headers.len());
        for (name, value) in headers {
            rd::rd_kafka_header_add(
                native,
                name.as_ptr().cast(),
                name.len() as isize,
                value.map_or(ptr::null(), <[u8]>::as_ptr).cast(),
                value.map_or(0, <[u8]>::len) as isize,
            );
        }
        native
    }
}

/// A topic's name for librdkafka. Kafka allows no NUL in names, so one that has it cannot exist.
pub fn c_name(topic: &str) -> Option<CString> {
    CString::new(topic).ok()
}

/// State and number of members of groups, whichever protocol they speak; the crate's own call knows the classic one only.
///
/// # Safety
/// `client` is live.
pub unsafe fn describe_groups(
    client: *mut rd::rd_kafka_t,
    groups: &[&str],
    timeout: Duration,
) -> Result<Vec<(String, String, usize)>, String> {
    let names: Vec<CString> = groups.iter().filter_map(|name| CString::new(*name).ok()).collect();
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let text = |text: *const c_char| {
        // SAFETY: librdkafka's texts are C strings that live as long as the event; they are copied.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    };
    // SAFETY: queue, options and event are ours, checked, and destroyed here; names and results are copied before that.
    unsafe {
        let queue = rd::rd_kafka_queue_new(client);
        let kind = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        let options = rd::rd_kafka_AdminOptions_new(client, kind);
        rd::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, ptr::null_mut(), 0);
        rd::rd_kafka_DescribeConsumerGroups(client, pointers.as_mut_ptr(), pointers.len(), options, queue);
        // The answer comes by the request's timeout at the latest, if only an error.
        let event = rd::rd_kafka_queue_poll(queue, -1);
        let outcome = match rd::rd_kafka_event_error(event) {
            Code::RD_KAFKA_RESP_ERR_NO_ERROR => {
                let mut count = 0;
                let result = rd::rd_kafka_event_DescribeConsumerGroups_result(event);
                let described = rd::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
                let described = (0..count).map(|index| *described.add(index));
                Ok(described
                    .map(|group| {
                        let state = rd::rd_kafka_ConsumerGroupDescription_state(group);
                        (
                            text(rd::rd_kafka_ConsumerGroupDescription_group_id(group)),
                            text(rd::rd_kafka_consumer_group_state_name(state)),
                            rd::rd_kafka_ConsumerGroupDescription_member_count(group),
                        )
                    })
                    .collect())
            }
            _ => Err(text(rd::rd_kafka_event_error_string(event))),
        };
        rd::rd_kafka_event_destroy(event);
        rd::rd_kafka_AdminOptions_destroy(options);
        rd::rd_kafka_queue_destroy(queue);
        outcome
    }
}
