//! librdkafka's batch call, which the `rdkafka` crate does not offer: a fourth of the time per message.
//!
//! The consumer's own queue cannot be read in batches (its rebalance events would be answered behind our back), so
//! every partition's queue is forwarded to one of ours. That forwarding
//!
//! * must be set before `assign()`: it marks the queue, and librdkafka then leaves it alone when it starts fetching;
//! * is removed by librdkafka when it stops fetching, asynchronously, so that after a second `assign()` it may vanish
//!   once more. What arrives meanwhile stays in the partition's queue and moves over when the forwarding is set again,
//!   so it is simply set again from time to time.
//!
//! Messages of an earlier `assign()` carry an older version and are thrown away by the batch call itself.

use crate::context::Context;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka_sys as sys;
use std::ffi::{CStr, CString, c_int};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// A queue of fetched messages of many partitions.
pub(crate) struct BatchQueue {
    queue: NonNull<sys::rd_kafka_queue_t>,
    messages: Vec<*mut sys::rd_kafka_message_t>,
    /// librdkafka's client outlives its queue; it hangs for ever if it is destroyed first.
    consumer: Arc<BaseConsumer<Context>>,
}

// SAFETY: librdkafka's queues may be used from any thread. Between calls the vector holds no messages.
unsafe impl Send for BatchQueue {}

impl BatchQueue {
    /// A new queue, for at most `capacity` messages per call. `None` if librdkafka has no memory.
    pub(crate) fn new(consumer: Arc<BaseConsumer<Context>>, capacity: usize) -> Option<Self> {
        // SAFETY: the client lives as long as `consumer`, which we keep.
        let queue = unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) };
        Some(Self { queue: NonNull::new(queue)?, messages: Vec::with_capacity(capacity), consumer })
    }

    /// Forwards a partition's messages to this queue. Doing it again is harmless. `false` if there is no such queue.
    pub(crate) fn forward(&self, topic: &CString, partition: i32) -> bool {
        // SAFETY: client and name live through the call. The reference to the partition's queue is given back below;
        // librdkafka counts its own references to both queues.
        unsafe {
            let client = self.consumer.client().native_ptr();
            let partition = sys::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition);
            if partition.is_null() {
                return false;
            }
            sys::rd_kafka_queue_forward(partition, self.queue.as_ptr());
            sys::rd_kafka_queue_destroy(partition);
        }
        true
    }

    /// Waits until `at_most` messages and events are there or the time is over.
    pub(crate) fn poll(&mut self, timeout: Duration, at_most: usize) -> Batch<'_> {
        let at_most = at_most.min(self.messages.capacity());
        let timeout = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the vector has room for `at_most` pointers, and librdkafka writes as many as it returns.
        unsafe {
            let read = sys::rd_kafka_consume_batch_queue(
                self.queue.as_ptr(),
                timeout,
                self.messages.as_mut_ptr(),
                at_most,
            );
            // -1 is an error of the call itself: nothing was read.
            self.messages.set_len(usize::try_from(read).unwrap_or(0));
        }
        Batch { messages: &mut self.messages }
    }
}

impl Drop for BatchQueue {
    fn drop(&mut self) {
        // SAFETY: ours alone since `new`; messages were destroyed with their `Batch`.
        unsafe { sys::rd_kafka_queue_destroy(self.queue.as_ptr()) }
    }
}

/// Messages of one call, in order. They are given back to librdkafka together.
pub(crate) struct Batch<'q> {
    messages: &'q mut Vec<*mut sys::rd_kafka_message_t>,
}

impl Batch<'_> {
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Raw<'_>> {
        // SAFETY: librdkafka returned these pointers; they stay valid until they are destroyed by our drop.
        self.messages.iter().map(|m| Raw { message: unsafe { &**m } })
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for message in self.messages.drain(..) {
            // SAFETY: each pointer was returned once and is destroyed once; no `Raw` outlives the batch.
            unsafe { sys::rd_kafka_message_destroy(message) }
        }
    }
}

/// A message, or an event of a partition.
#[derive(Clone, Copy)]
pub(crate) struct Raw<'b> {
    message: &'b sys::rd_kafka_message_t,
}

/// What a [`Raw`] holds.
pub(crate) enum Content<'b> {
    /// A message: its payload (`None` is a tombstone) and the broker's time in ms, if it has one.
    Message { payload: Option<&'b [u8]>, time_ms: Option<i64> },
    /// The end of the partition: the offset to read next.
    End,
    /// Something is wrong with the partition.
    Error { code: sys::rd_kafka_resp_err_t, text: String },
}

impl<'b> Raw<'b> {
    /// Stands for topic and partition as long as the topic is assigned: cheap to compare.
    pub(crate) fn key(self) -> (usize, i32) {
        (self.message.rkt as usize, self.message.partition)
    }

    /// The topic's name; `None` for an event of no topic.
    pub(crate) fn topic(self) -> Option<&'b str> {
        if self.message.rkt.is_null() {
            return None;
        }
        // SAFETY: a message holds a reference to its topic, and a topic's name never changes.
        unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(self.message.rkt)) }.to_str().ok()
    }

    pub(crate) fn partition(self) -> i32 {
        self.message.partition
    }

    pub(crate) fn offset(self) -> i64 {
        self.message.offset
    }

    pub(crate) fn content(self) -> Content<'b> {
        use sys::rd_kafka_resp_err_t as E;
        match self.message.err {
            E::RD_KAFKA_RESP_ERR_NO_ERROR => {
                let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
                // SAFETY: a valid message and a valid place to write to.
                let ms = unsafe { sys::rd_kafka_message_timestamp(self.message, &mut kind) };
                let known = kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
                Content::Message { payload: self.bytes(), time_ms: (known && ms >= 0).then_some(ms) }
            }
            E::RD_KAFKA_RESP_ERR__PARTITION_EOF => Content::End,
            code => Content::Error {
                code,
                text: String::from_utf8_lossy(self.bytes().unwrap_or_default()).into_owned(),
            },
        }
    }

    fn bytes(self) -> Option<&'b [u8]> {
        if self.message.payload.is_null() {
            return None;
        }
        // SAFETY: librdkafka promises `len` bytes behind a payload that is not null, for as long as the message lives.
        Some(unsafe { std::slice::from_raw_parts(self.message.payload.cast::<u8>(), self.message.len) })
    }
}
