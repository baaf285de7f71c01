//! The bare client: librdkafka's batch call, which counts messages and bytes and does nothing else, in a process of its own.

use crate::core::process_cpu;
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::child::succeed;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use rdkafka_sys as sys;
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Messages of one call at most.
const BATCH: usize = 4096;
const WAIT_MS: i32 = 100;

/// Flags of the process.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    partitions: usize,
    /// How many there are.
    #[arg(long)]
    messages: u64,
}

/// What it took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Consumed {
    /// From the first message to the last.
    pub(crate) seconds: f64,
    /// Of the processor, in these.
    pub(crate) cpu: f64,
    pub(crate) peak_bytes: Option<u64>,
}

/// Runs it in a process of its own.
pub(crate) fn in_a_process(
    bootstrap: &str,
    topic: &str,
    partitions: usize,
    messages: u64,
) -> Result<Consumed> {
    // Not by its path where there is another way: a build may put a new program there meanwhile.
    let this = Path::new("/proc/self/exe");
    let mut command = Command::new(if this.exists() { this.into() } else { std::env::current_exe()? });
    command.args(["bare", "--bootstrap", bootstrap, "--topic", topic]);
    command.args(["--partitions", &partitions.to_string(), "--messages", &messages.to_string()]);
    let ended = succeed(&mut command)?;
    let consumed: Consumed = serde_json::from_str(&ended.stdout)?;
    Ok(Consumed { peak_bytes: ended.memory.peak_bytes, ..consumed })
}

/// The process: prints [`Consumed`].
pub(crate) fn run(args: &Args) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &args.bootstrap)
        .set("group.id", "bare")
        .set("enable.auto.commit", "false")
        .create()?;
    // SAFETY: the client lives to the end of this function, and so longer than the queue.
    let queue = unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) };
    let mut all = TopicPartitionList::new();
    for partition in 0..args.partitions as i32 {
        all.add_partition_offset(&args.topic, partition, Offset::Beginning)?;
    }
    let topic = CString::new(args.topic.as_str())?;
    let forward = || {
        for partition in 0..args.partitions as i32 {
            // SAFETY: client and name live through the call; the reference to the partition's queue is given back.
            unsafe {
                let of = sys::rd_kafka_queue_get_partition(
                    consumer.client().native_ptr(),
                    topic.as_ptr(),
                    partition,
                );
                if !of.is_null() {
                    sys::rd_kafka_queue_forward(of, queue);
                    sys::rd_kafka_queue_destroy(of);
                }
            }
        }
    };
    forward();
    consumer.assign(&all)?;
    forward();
    let mut messages: Vec<*mut sys::rd_kafka_message_t> = Vec::with_capacity(BATCH);
    let (mut read, mut bytes, mut first) = (0, 0, None);
    while read < args.messages {
        // SAFETY: the vector has room for so many pointers, and the call writes as many as it returns (−1: none).
        unsafe {
            let n = sys::rd_kafka_consume_batch_queue(queue, WAIT_MS, messages.as_mut_ptr(), BATCH);
            messages.set_len(usize::try_from(n).unwrap_or(0));
        }
        if messages.is_empty() {
            forward(); // an assignment may have removed it
            if let Some(Err(e)) = consumer.poll(std::time::Duration::ZERO) {
                return Err(e.into());
            }
        }
        if !messages.is_empty() {
            first.get_or_insert_with(|| (Instant::now(), process_cpu()));
        }
        for message in messages.drain(..) {
            // SAFETY: a valid message, given back once.
            unsafe {
                if (*message).err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                    read += 1;
                    bytes += (*message).len;
                }
                sys::rd_kafka_message_destroy(message);
            }
        }
    }
    let (begun, start) = first.ok_or("there is no message")?;
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), (process_cpu() - start).as_secs_f64());
    eprintln!("{read} messages, {bytes} bytes");
    // SAFETY: ours since it was made.
    unsafe { sys::rd_kafka_queue_destroy(queue) };
    let consumed = Consumed { seconds, cpu, peak_bytes: None };
    println!("{}", serde_json::to_string(&consumed)?);
    Ok(())
}
